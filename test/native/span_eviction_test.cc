// Giving up spans without waiting: what goes, what stays, and how many bytes the disk gets back.
#include <sys/stat.h>

#include <thread>

#include "../../native/sparse/sparse.h"
#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::layer;

namespace {
struct Nobody : Waiter {
  void OnReady() override {}
  void OnError(int) override {}
};

uint64_t Allocated(const Layer& layer) {
  const int fd = layer.directory.Open("data");
  struct stat st;
  CHECK(fstat(fd, &st) == 0);
  close(fd);
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

uint64_t TryEvict(SpanStore& store, std::vector<uint64_t> spans) {
  uint64_t freed = 0;
  OK(store.TryEvict(spans, &freed));
  return freed;
}

// Spans of 10,007 bytes share pages with their neighbours; in the end not one page is left.
void TestEdges() {
  Layer layer;
  auto store = layer.Open();
  for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
  CHECK(Allocated(layer) >= 40 * 10'007);
  CHECK(TryEvict(*store, {4}) == 2 * 4096);
  CHECK(store->state(4) == kAbsent && ReadRight(*store, layer.starts[3], 10'007) && ReadRight(*store, layer.starts[5], 10'007));
  // The page between two spans goes with the second of them, also when both go at once.
  for (uint64_t i = 0; i < 40; i += 2) TryEvict(*store, {i});
  for (uint64_t i = 1; i < 40; i += 2) CHECK(ReadRight(*store, layer.starts[i], 10'007));
  std::vector<uint64_t> odd;
  for (uint64_t i = 1; i < 40; i += 2) odd.push_back(i);
  TryEvict(*store, odd);
  CHECK(Allocated(layer) == 0);
  CHECK(store->present_count() == 0 && TryEvict(*store, odd) == 0);
  for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
  CHECK(ReadRight(*store, 0, layer.starts.back()));
}

void TestOrder() {
  Layer layer;
  auto store = layer.Open(), elsewhere = layer.Open();
  for (uint64_t i : {5, 1, 9, 3}) layer.Fill(*store, i);
  CHECK(ReadRight(*store, layer.starts[5], 10));
  const auto order = [&](size_t count) {
    std::vector<uint64_t> spans;
    for (const SpanUse& use : store->LeastRecent(count)) spans.push_back(use.span);
    return spans;
  };
  // 3 came last; 5 was read since.
  CHECK((order(10) == std::vector<uint64_t>{1, 9, 3, 5}));
  CHECK((order(2) == std::vector<uint64_t>{1, 9}));
  layer.Fill(*elsewhere, 7);
  // Never used here.
  CHECK((order(10) == std::vector<uint64_t>{7, 1, 9, 3, 5}));
}

void TestWhatStays() {
  Layer layer;
  auto store = layer.Open(), elsewhere = layer.Open();
  for (uint64_t i : {1, 2, 3}) layer.Fill(*store, i);
  // Awaited: somebody needs 2 and 4 at once.
  auto waiter = std::make_shared<Nobody>();
  CHECK(store->Park({2, 4}, waiter));
  TryEvict(*store, {1, 2, 3});
  CHECK(store->state(1) == kAbsent && store->state(2) == kPresent && store->state(3) == kPresent);
  CHECK(store->LeastRecent(10).empty());
  CHECK(store->Unpark(waiter.get()));
  // Written elsewhere: neither the span nor a page that it shares.
  Target target;
  OK(elsewhere->BeginSpan(1, &target));
  const Bytes bytes = Pattern(layer.starts[1], 10'007);
  OK(elsewhere->WriteSpan(target, 1, 0, bytes.data(), bytes.size()));
  TryEvict(*store, {1, 2});
  CHECK(store->state(2) == kAbsent);
  OK(elsewhere->CommitSpan(target, 1));
  CHECK(ReadRight(*store, layer.starts[1], 10'007));
  uint64_t freed;
  FAILS(store->TryEvict({40}, &freed), "usage");
}

void TestOnlyMemory() {
  Layer layer;
  auto store = layer.Open();
  FillInput in = layer.Input(6);
  in.only_memory = true;
  std::string degraded;
  OK(FillSpan(*store, in, &degraded));
  CHECK(store->present(6) && store->state(6) == kAbsent && store->disk_ok() && Allocated(layer) == 0);
  CHECK(ReadRight(*store, layer.starts[6], 10'007));
  CHECK(store->LeastRecent(10).empty());
  layer.Fill(*store, 7);
  CHECK(store->state(7) == kPresent && ReadRight(*store, layer.starts[6], 20'014));
}

// Readers never see a hole, however fast spans go and come.
void TestReadersUnderEviction() {
  Layer layer;
  auto store = layer.Open();
  std::atomic<bool> done{false};
  std::thread evictor([&] {
    for (uint64_t i = 0; !done; i = (i + 7) % 40) TryEvict(*store, {i, (i + 1) % 40});
  });
  for (int round = 0; round < 2'000; round++) {
    const uint64_t span = static_cast<uint64_t>(round) * 13 % 39;
    SpanRange missing;
    if (!ReadRight(*store, layer.starts[span] + 5'000, 10'007, &missing))
      for (uint64_t i = missing.first; i <= missing.last; i++) {
        std::string degraded;
        const Status s = FillSpan(*store, layer.Input(i), &degraded);
        CHECK(s.ok() || std::string(s.code) == "busy");
      }
  }
  done = true;
  evictor.join();
}

void TestTreeUsage() {
  Layer layer;
  uint64_t before = 0, after = 0, none = 1;
  OK(sparse::TreeUsage(layer.directory.path, &before));
  auto store = layer.Open();
  for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
  OK(sparse::TreeUsage(layer.directory.path, &after));
  CHECK(after - before == Allocated(layer) + 2 * 4096);  // header and states
  OK(sparse::TreeUsage(layer.directory.path + "/nothing", &none));
  CHECK(none == 0);
}
}  // namespace

int main() {
  TestEdges();
  TestOrder();
  TestWhatStays();
  TestOnlyMemory();
  TestReadersUnderEviction();
  TestTreeUsage();
  puts("ok");
}
