// A layer's `data` lent to the kernel: nobody may punch or write it until the machine starts again, also when who lent it is gone.
#include <sys/stat.h>
#include <sys/xattr.h>

#include <thread>

#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::layer;

namespace {

int Lend(SpanStore& store) {
  int fd = -1;
  OK(store.Lend(&fd));
  return fd;
}

void CheckWhole(int fd, uint64_t size) {
  Bytes got(size);
  CHECK(pread(fd, got.data(), size, 0) == static_cast<ssize_t>(size));
  CHECK(got == Pattern(0, size));
}

std::vector<uint64_t> All() {
  std::vector<uint64_t> out(40);
  for (uint64_t i = 0; i < 40; i++) out[i] = i;
  return out;
}

void TestIncompleteIsNotLent() {
  Layer layer;
  auto store = layer.Open();
  for (uint64_t i = 0; i < 39; i++) layer.Fill(*store, i);
  CHECK(Lend(*store) == -1 && !store->Lent());
  layer.Fill(*store, 39);
  // A state that speaks of bytes that are not there.
  const int data = layer.directory.Open("data");
  CHECK(fallocate(data, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096) == 0);
  CHECK(Lend(*store) == -1 && !store->Lent());
  close(data);
  // Memory only.
  auto memory = layer.Open(false);
  for (uint64_t i = 0; i < 40; i++) layer.Fill(*memory, i);
  CHECK(Lend(*memory) == -1);
}

void TestNobodyPunches() {
  Layer layer;
  const uint64_t size = layer.starts.back();
  int fd;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
    fd = Lend(*store);
    CHECK(fd >= 0 && store->Lent());
    CHECK(write(fd, "x", 1) < 0);  // read-only
  }
  // Who lent it is gone; another comes.
  auto store = layer.Open(), other = layer.Open();
  uint64_t freed = 1;
  CHECK(store->Lent() && store->LeastRecent(40).empty());
  OK(store->TryEvict(All(), &freed));
  CHECK(freed == 0 && store->data_count() == 40);
  CheckWhole(fd, size);
  const int again = Lend(*other);
  CHECK(again >= 0);
  close(again);
  // What is given up for wrong goes from here, and stays there. What comes again goes to memory.
  OK(store->Evict({0, 39}));
  CHECK(store->data_count() == 0 && Lend(*store) == -1 && store->Lent());
  CheckWhole(fd, size);
  Target target;
  OK(store->BeginSpan(3, &target));
  CHECK(target == Target::kMemory);
  store->AbortSpan(target, 3);
  layer.Fill(*store, 3);
  CHECK(ReadRight(*store, layer.starts[3], 10'007) && store->data_count() == 0);
  CheckWhole(fd, size);
  close(fd);
}

void TestAnotherBoot() {
  Layer layer;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
    close(Lend(*store));
    OK(store->FlushClean());
  }
  layer.boot = 2;
  auto store = layer.Open();
  CHECK(!store->Lent() && store->data_count() == 40);
  uint64_t freed = 0;
  OK(store->TryEvict({0, 1, 2}, &freed));
  CHECK(freed > 0 && Lend(*store) == -1);
}

// The states of a lent file are gone: it must not be filled again from the start.
void TestStatesGone() {
  Layer layer;
  int fd;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
    fd = Lend(*store);
  }
  CHECK(unlink((layer.directory.path + "/spans").c_str()) == 0);
  std::shared_ptr<SpanStore> store;
  FAILS(layer.TryOpen(&store), "busy");
  CheckWhole(fd, layer.starts.back());
  // Another file of the same name has nothing to do with it.
  CHECK(unlink((layer.directory.path + "/data").c_str()) == 0 && unlink((layer.directory.path + "/spans").c_str()) == 0);
  OK(layer.TryOpen(&store));
  CHECK(!store->Lent());
  CheckWhole(fd, layer.starts.back());
  close(fd);
}

// Lending and giving up at once, of two stores on the same files: what was lent has all its bytes.
void TestRace() {
  for (int round = 0; round < 200; round++) {
    Layer layer;
    auto lender = layer.Open(), evictor = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*lender, i);
    int fd = -1;
    std::thread a([&] { fd = Lend(*lender); });
    std::thread b([&] {
      uint64_t freed;
      OK(evictor->TryEvict(All(), &freed));
    });
    a.join();
    b.join();
    if (fd < 0) continue;
    CheckWhole(fd, layer.starts.back());
    close(fd);
  }
}

}  // namespace

int main() {
  {
    TempDirectory probe;
    const int fd = probe.Open("xattr");
    const bool can = fsetxattr(fd, "user.ocifs.lent", "x", 1, 0) == 0;
    close(fd);
    if (!can) {
      std::printf("NOT RUN: this file system has no user attributes, so nothing is lent on it\n");
      return 0;
    }
  }
  TestIncompleteIsNotLent();
  TestNobodyPunches();
  TestAnotherBoot();
  TestStatesGone();
  TestRace();
  std::printf("ok\n");
}
