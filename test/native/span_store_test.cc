// The span store without Node: its header, reboots, two stores on one pair of files as two processes have them, memory
// limits, waiters.
#include <atomic>
#include <thread>

#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::layer;

namespace {

class CountingWaiter : public Waiter {
 public:
  void OnReady() override { ready++; }
  void OnError(int err) override {
    error = err;
    errors++;
  }
  std::atomic<int> ready{0}, errors{0}, error{0};
};

void TestReads() {
  Layer layer;
  auto store = layer.Open();
  SpanRange missing;
  CHECK(!ReadRight(*store, 0, 100, &missing) && missing.first == 0 && missing.last == 0);
  layer.Fill(*store, 0);
  layer.Fill(*store, 2);
  CHECK(ReadRight(*store, 0, 10'007));
  CHECK(!ReadRight(*store, 10'000, 20'000, &missing) && missing.first == 0 && missing.last == 2);
  layer.Fill(*store, 1);
  CHECK(ReadRight(*store, 10'000, 20'000));
  CHECK(store->present_count() == 3 && store->present_bytes() == 30'021);
  bool ready;
  uint8_t byte;
  FAILS(store->Read(layer.starts.back(), 1, &byte, &ready, &missing), "corrupt");
  FAILS(store->Read(UINT64_MAX, 1, &byte, &ready, &missing), "corrupt");
  FAILS(store->Read(5, SIZE_MAX, &byte, &ready, &missing), "corrupt");
  OK(store->Read(UINT64_MAX, 0, &byte, &ready, &missing));
  CHECK(ready);
}

void TestWrongSpans() {
  Layer layer;
  auto store = layer.Open();
  std::string degraded;
  FillInput in = layer.Input(3);
  in.end--;
  FAILS(FillSpan(*store, in, &degraded), "corrupt");
  in = layer.Input(3);
  in.digest.emplace();
  FAILS(FillSpan(*store, in, &degraded), "mismatch");
  in.span = 40;
  FAILS(FillSpan(*store, in, &degraded), "usage");
  CHECK(!store->present(3));
  // What was written before the digest was known to be wrong does not count.
  CHECK(!ReadRight(*store, layer.starts[3], 1));
  in = layer.Input(3);
  in.discard = true;
  OK(FillSpan(*store, in, &degraded));
  CHECK(!store->present(3));
  Target target;
  OK(store->BeginSpan(3, &target));
  FAILS(store->BeginSpan(3, &target), "busy");
  const Bytes eight(8);
  FAILS(store->WriteSpan(target, 3, 10'000, eight.data(), 8), "corrupt");
  store->AbortSpan(target, 3);
  layer.Fill(*store, 3);
}

void Patch(const Layer& layer, off_t offset, const void* bytes, size_t size) {
  const int fd = layer.directory.Open("spans");
  CHECK(pwrite(fd, bytes, size, offset) == static_cast<ssize_t>(size));
  close(fd);
}

void TestHeader() {
  const char* const codes[] = {"corrupt", "unsupported", "mismatch", "mismatch", "mismatch", "mismatch"};
  const off_t fields[] = {0, 8, 12, 16, 24, 64};  // magic, version, header size, span count, data bytes, partition
  for (size_t i = 0; i < std::size(fields); i++) {
    Layer layer;
    layer.Open();
    Patch(layer, fields[i], "\x55", 1);
    std::shared_ptr<SpanStore> store;
    FAILS(layer.TryOpen(&store), codes[i]);
    CHECK(!store);
  }
  for (const int change : {-1, 1}) {
    Layer layer;
    layer.Open();
    CHECK(truncate((layer.directory.path + "/spans").c_str(), 4096 + 40 + change) == 0);
    std::shared_ptr<SpanStore> store;
    FAILS(layer.TryOpen(&store), "mismatch");
  }
  // Its creator died before it wrote the header.
  Layer layer;
  Bytes zeros(4096 + 40);
  Patch(layer, 0, zeros.data(), zeros.size());
  auto store = layer.Open();
  layer.Fill(*store, 7);
  // States that nobody writes count as absent.
  Patch(layer, 4096 + 8, "\x07\xff", 2);
  CHECK(!store->present(8) && !store->present(9) && store->present(7));
  layer.Fill(*store, 8);
  CHECK(ReadRight(*store, layer.starts[7], 2 * 10'007));

  Layer bad;
  for (auto starts : {std::vector<uint64_t>{}, {1, 2}, {0, 5, 5}, {0, 9, 4}}) {
    bad.starts = starts;
    SpanStore::Options o;
    o.out_starts = starts;
    std::shared_ptr<SpanStore> none;
    FAILS(SpanStore::Open(std::move(o), &none), "usage");
  }
  SpanStore::Options empty;
  empty.out_starts = {0};
  std::shared_ptr<SpanStore> nothing;
  OK(SpanStore::Open(std::move(empty), &nothing));
  CHECK(nothing->size_bytes() == 0 && nothing->span_count() == 0 && nothing->present_count() == 0);
}

// Whoever deletes or cuts `data` must not make the states tell that its holes are bytes.
void TestLostData() {
  Layer layer;
  const std::string path = layer.directory.path + "/data";
  for (const off_t left : {off_t{-1}, off_t{0}, off_t{50'000}}) {
    {
      auto store = layer.Open();
      for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
      OK(store->FlushClean());
    }
    CHECK((left < 0 ? unlink(path.c_str()) : truncate(path.c_str(), left)) == 0);
    auto store = layer.Open();
    CHECK(store->present_count() == 0);
    struct stat st;
    CHECK(stat(path.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == layer.starts.back());
    layer.Fill(*store, 39);
    CHECK(ReadRight(*store, layer.starts[39], 10'007) && !ReadRight(*store, 0, 1));
  }
  // While somebody still marks what is in the file that was deleted.
  auto user = layer.Open();
  CHECK(unlink(path.c_str()) == 0);
  std::shared_ptr<SpanStore> store;
  FAILS(layer.TryOpen(&store), "busy");
  user.reset();
  CHECK(layer.Open()->present_count() == 0);
}

void TestReboot() {
  Layer layer;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 4; i++) layer.Fill(*store, i);
  }
  CHECK(layer.Open()->present_count() == 4);  // killed without a flush, but the page cache is still there
  layer.boot = 2;
  auto store = layer.Open();
  for (uint64_t i = 0; i < 4; i++) CHECK(store->state(i) == kSuspect && !store->present(i));
  // The disk lost the bytes of span 1.
  const int data = layer.directory.Open("data");
  const Bytes zeros(5000);
  CHECK(pwrite(data, zeros.data(), zeros.size(), 12'000) == 5000);
  close(data);
  auto waiter = std::make_shared<CountingWaiter>();
  CHECK(store->Park({0, 0}, waiter));
  bool good = false;
  OK(CheckSuspect(*store, 0, DigestOf(layer, 0), &good));
  CHECK(good && store->present(0) && waiter->ready == 1);
  OK(CheckSuspect(*store, 1, DigestOf(layer, 1), &good));
  CHECK(!good && store->state(1) == kAbsent);
  OK(CheckSuspect(*store, 2, std::nullopt, &good));
  CHECK(!good && store->state(2) == kAbsent);
  // Evicted before it was checked: right bytes or not, it is gone.
  OK(store->Evict({3, 3}));
  OK(CheckSuspect(*store, 3, DigestOf(layer, 3), &good));
  CHECK(!good && store->state(3) == kAbsent);
  for (uint64_t i = 0; i < 4; i++) layer.Fill(*store, i);
  CHECK(ReadRight(*store, 0, 4 * 10'007));
  OK(store->FlushClean());
  store.reset();
  layer.boot = 3;
  CHECK(layer.Open()->present_count() == 4);
  // Opened and not flushed again: the mark is gone.
  layer.boot = 4;
  CHECK(layer.Open()->present_count() == 0);
}

void TestCleanMarkOfTwo() {
  Layer layer;
  auto a = layer.Open(), b = layer.Open();
  layer.Fill(*a, 0);
  OK(a->FlushClean());  // `b` still writes
  layer.Fill(*b, 1);
  OK(b->FlushClean());  // both objects are still there, but no one uses them
  layer.boot = 2;
  auto c = layer.Open();
  CHECK(c->present_count() == 2);
  layer.Fill(*c, 2);
  layer.boot = 3;
  CHECK(layer.Open()->present_count() == 0);
}

void TestTwoStores() {
  Layer layer;
  auto a = layer.Open(), b = layer.Open();
  auto waiter = std::make_shared<CountingWaiter>();
  CHECK(b->Park({5, 6}, waiter));
  layer.Fill(*a, 5);
  CHECK(b->present(5) && ReadRight(*b, layer.starts[5], 10'007));
  layer.Fill(*a, 6);
  // Nobody in `b` wrote, so nobody woke.
  CHECK(waiter->ready == 0);
  CHECK(!b->Wake({5, 7}) && waiter->ready == 1);
  CHECK(b->Wake({5, 6}) && waiter->ready == 1);

  // While one process writes a span, another leaves its bytes alone and keeps its own.
  Target mine, theirs;
  OK(a->BeginSpan(9, &mine));
  CHECK(mine == Target::kData);
  layer.Fill(*b, 9);
  CHECK(b->present(9) && b->state(9) == kAbsent && !a->present(9));
  const Bytes wrong(10'007, 0xee);
  OK(a->WriteSpan(mine, 9, 0, wrong.data(), wrong.size()));
  CHECK(ReadRight(*b, layer.starts[9], 10'007));
  a->AbortSpan(mine, 9);
  OK(b->BeginSpan(9, &theirs));
  CHECK(theirs == Target::kNone);
  OK(a->BeginSpan(10, &mine));
  OK(b->BeginSpan(10, &theirs));
  CHECK(theirs == Target::kMemory);
  b->AbortSpan(theirs, 10);
  a->AbortSpan(mine, 10);
  OK(b->BeginSpan(10, &theirs));
  CHECK(theirs == Target::kData);
  b->AbortSpan(theirs, 10);

  // A span that is there is not written again, also by who asked for it too late.
  layer.Fill(*a, 11);
  FillInput in = layer.Input(11);
  in.fd = -1;
  std::string degraded;
  OK(FillSpan(*b, in, &degraded));

  // Evicted by one, missing for both.
  OK(a->Evict({0, 39}));
  CHECK(b->present_count() == 1 && ReadRight(*b, layer.starts[9], 10'007));  // its own copy of 9
  CHECK(a->present_count() == 0);
}

void TestEvictionOfWriters() {
  Layer layer;
  auto store = layer.Open();
  for (const bool disk : {true, false}) {
    OK(store->Evict({0, 39}));
    if (!disk) store->DisableDisk();
    Target target;
    OK(store->BeginSpan(4, &target));
    const Bytes bytes = Pattern(layer.starts[4], 10'007);
    OK(store->WriteSpan(target, 4, 0, bytes.data(), 5000));
    std::thread evictor([&] { OK(store->Evict({0, 39})); });
    // Until the eviction has begun, writing goes on.
    Status s;
    while ((s = store->WriteSpan(target, 4, 5000, bytes.data() + 5000, 5007)).ok()) std::this_thread::yield();
    FAILS(s, "busy");
    FAILS(store->BeginSpan(5, &target), "busy");
    store->AbortSpan(disk ? Target::kData : Target::kMemory, 4);
    evictor.join();
    CHECK(!store->present(4));
    layer.Fill(*store, 4);
    CHECK(ReadRight(*store, layer.starts[4], 10'007));
  }
  FAILS(store->Evict({1, 0}), "usage");
  FAILS(store->Evict({0, 40}), "usage");
}

uint64_t MemoryFileBytes() {
  uint64_t sum = 0;
  for (int fd = 0; fd < 256; fd++) {
    char target[256];
    const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target - 1);
    struct stat st;
    if (n > 0 && std::string(target, static_cast<size_t>(n)).starts_with("/memfd:ocifs-spans") && fstat(fd, &st) == 0)
      sum += static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return sum;
}

void TestMemoryLimit() {
  for (const uint64_t size : {uint64_t{300}, uint64_t{4096}, uint64_t{10'007}}) {
    Layer layer;
    layer.starts = Starts(400'000 / size, size);
    layer.memory_bytes = 64 << 10;
    auto store = layer.Open(false);
    for (int round = 0; round < 2; round++)
      for (uint64_t i = 0; i < store->span_count(); i++) {
        layer.Fill(*store, i);
        CHECK(store->present(i) && store->present_bytes() <= layer.memory_bytes);
        // Two pages more at the edges of what is left.
        CHECK(MemoryFileBytes() <= layer.memory_bytes + 8192);
        CHECK(ReadRight(*store, layer.starts[i], size));
      }
    CHECK(!store->present(0));
    OK(store->Evict({0, store->span_count() - 1}));
    CHECK(store->present_count() == 0 && MemoryFileBytes() == 0);
    layer.Fill(*store, 1);
    CHECK(ReadRight(*store, layer.starts[1], size));
  }
  Layer layer;
  layer.memory_bytes = 25'000;
  auto store = layer.Open(false);
  Target target;
  OK(store->BeginSpan(0, &target));
  OK(store->BeginSpan(1, &target));
  FAILS(store->BeginSpan(2, &target), "busy");  // both are being written
  store->AbortSpan(target, 0);
  layer.Fill(*store, 2);
  store->AbortSpan(target, 1);
  layer.memory_bytes = 10'006;
  FAILS(layer.Open(false)->BeginSpan(0, &target), "limit");
}

void TestWaiters() {
  Layer layer;
  auto store = layer.Open();
  layer.Fill(*store, 0);
  auto waiter = std::make_shared<CountingWaiter>();
  CHECK(!store->Park({0, 0}, waiter));
  CHECK(store->Park({0, 2}, waiter));
  layer.Fill(*store, 1);
  CHECK(waiter->ready == 0);
  layer.Fill(*store, 2);
  CHECK(waiter->ready == 1 && !store->Unpark(waiter.get()));
  CHECK(store->Park({3, 4}, waiter));
  CHECK(store->Unpark(waiter.get()) && !store->Unpark(waiter.get()));
  layer.Fill(*store, 3);
  layer.Fill(*store, 4);
  CHECK(waiter->ready == 1);
  CHECK(store->Park({5, 7}, waiter));
  store->Fail({8, 20}, EIO);
  CHECK(waiter->errors == 0);
  store->Fail({7, 20}, EPERM);
  CHECK(waiter->errors == 1 && waiter->error == EPERM && waiter->ready == 1);
  CHECK(store->Park({5, 7}, waiter));
  store.reset();
  CHECK(waiter->errors == 2 && waiter->error == EIO);
}

// Bytes that are in `data` already become visible, but never a span that somebody else is at work on.
void TestAdopt() {
  Layer layer;
  const Bytes all = Pattern(0, layer.starts.back());
  const int data = layer.directory.Open("data");
  CHECK(pwrite(data, all.data(), all.size(), 0) == static_cast<ssize_t>(all.size()));
  close(data);
  auto store = layer.Open();
  auto other = layer.Open();
  auto waiter = std::make_shared<CountingWaiter>();
  CHECK(store->Park({8, 9}, waiter));
  layer.Fill(*store, 3);
  Target mine, theirs;
  OK(store->BeginSpan(4, &mine));
  OK(other->BeginSpan(5, &theirs));
  CHECK(mine == Target::kData && theirs == Target::kData);
  uint64_t adopted = 0;
  OK(store->Adopt({0, 9}, &adopted));
  CHECK(adopted == 7 && store->present_count() == 8);
  CHECK(!store->present(4) && !store->present(5) && !store->present(10));
  CHECK(waiter->ready == 1);
  CHECK(ReadRight(*other, 0, 4 * 10'007) && ReadRight(*other, layer.starts[6], 4 * 10'007));
  OK(store->Adopt({0, 9}, &adopted));
  CHECK(adopted == 0);
  store->AbortSpan(mine, 4);
  other->AbortSpan(theirs, 5);
  OK(store->Adopt({0, 39}, &adopted));
  CHECK(adopted == 32 && store->present_count() == 40);
  CHECK(ReadRight(*store, 0, layer.starts.back()));
  // After an adoption a span can be evicted and written as any other.
  OK(store->Evict({4, 4}));
  layer.Fill(*other, 4);
  CHECK(ReadRight(*store, layer.starts[4], 10'007));
  FAILS(store->Adopt({1, 0}, &adopted), "usage");
  FAILS(store->Adopt({0, 40}, &adopted), "usage");
  FAILS(layer.Open(false)->Adopt({0, 1}, &adopted), "usage");
  store->DisableDisk();
  FAILS(store->Adopt({0, 1}, &adopted), "usage");
}

// What an unclean reboot left in doubt is not in doubt any more when it was written anew.
void TestAdoptSuspect() {
  Layer layer;
  layer.Fill(*layer.Open(), 2);
  layer.boot = 2;
  auto store = layer.Open();
  CHECK(store->state(2) == kSuspect);
  uint64_t adopted = 0;
  OK(store->Adopt({2, 2}, &adopted));
  CHECK(adopted == 1 && store->state(2) == kPresent);
}

}  // namespace

int main() {
  TestReads();
  TestWrongSpans();
  TestHeader();
  TestLostData();
  TestReboot();
  TestCleanMarkOfTwo();
  TestTwoStores();
  TestEvictionOfWriters();
  TestMemoryLimit();
  TestWaiters();
  TestAdopt();
  TestAdoptSuspect();
  std::printf("ok\n");
}
