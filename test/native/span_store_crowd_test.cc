// Many threads that read, write, evict and wait in one span store, and in two on the same files: never a wrong byte, every
// waiter called once. scripts/test-native runs it under ThreadSanitizer as well.
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::layer;

namespace {

// Parks, and says once how it ended.
class OnceWaiter : public Waiter {
 public:
  explicit OnceWaiter(std::atomic<uint64_t>* called) : called_(called) {}
  void OnReady() override { End(); }
  void OnError(int) override { End(); }
  std::atomic<bool> ended{false};

 private:
  void End() {
    CHECK(!ended.exchange(true));
    called_->fetch_add(1);
  }
  std::atomic<uint64_t>* called_;
};

struct Crowd {
  const Layer& layer;
  std::vector<std::shared_ptr<SpanStore>> stores;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0}, hits{0}, fills{0}, refused{0}, evictions{0}, parked{0}, called{0};

  void Reader(unsigned seed) {
    std::mt19937_64 random(seed);
    while (!stop) {
      SpanStore& store = *stores[random() % stores.size()];
      const uint64_t size = 1 + random() % 30'000, offset = random() % (store.size_bytes() - size);
      hits += ReadRight(store, offset, size);
      reads++;
    }
  }
  void Writer(unsigned seed) {
    std::mt19937_64 random(seed);
    while (!stop) {
      SpanStore& store = *stores[random() % stores.size()];
      const uint64_t span = random() % store.span_count();
      if (store.present(span)) continue;
      FillInput in = layer.Input(span);
      // Now and then bytes that turn out to be wrong after they were written.
      const bool wrong = random() % 8 == 0;
      if (wrong) {
        in.begin = layer.starts[(span + 1) % store.span_count()];
        in.end = in.begin + 10'007;
        in.digest = DigestOf(layer, span);
      }
      std::string degraded;
      const Status s = FillSpan(store, in, &degraded);
      CHECK(s.ok() || s.err == EBUSY || (wrong && s.code == std::string("mismatch")));
      (s.ok() ? fills : refused)++;
    }
  }
  void Evictor(unsigned seed) {
    std::mt19937_64 random(seed);
    while (!stop) {
      SpanStore& store = *stores[random() % stores.size()];
      const uint64_t first = random() % store.span_count();
      OK(store.Evict({first, std::min(first + random() % 4, store.span_count() - 1)}));
      evictions++;
      std::this_thread::yield();
    }
  }
  void Parker(unsigned seed) {
    std::mt19937_64 random(seed);
    while (!stop) {
      SpanStore& store = *stores[random() % stores.size()];
      const uint64_t first = random() % store.span_count();
      const SpanRange range{first, std::min(first + random() % 3, store.span_count() - 1)};
      auto waiter = std::make_shared<OnceWaiter>(&called);
      if (!store.Park(range, waiter)) {
        CHECK(!waiter->ended);
        continue;
      }
      parked++;
      switch (random() % 4) {
        case 0:
          if (store.Unpark(waiter.get())) {
            CHECK(!waiter->ended);
            parked--;
          }
          break;
        case 1: store.Fail(range, EIO); break;
        case 2: store.Wake(range); break;
        default: break;
      }
    }
  }
};

void TestCrowd(bool disk, size_t stores, uint64_t memory_bytes) {
  Layer layer;
  layer.memory_bytes = memory_bytes;
  Crowd crowd{layer, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  for (size_t i = 0; i < stores; i++) crowd.stores.push_back(layer.Open(disk));
  std::vector<std::thread> threads;
  unsigned seed = 1;
  for (int i = 0; i < 3; i++) threads.emplace_back(&Crowd::Reader, &crowd, seed++);
  for (int i = 0; i < 3; i++) threads.emplace_back(&Crowd::Writer, &crowd, seed++);
  for (int i = 0; i < 2; i++) threads.emplace_back(&Crowd::Evictor, &crowd, seed++);
  for (int i = 0; i < 2; i++) threads.emplace_back(&Crowd::Parker, &crowd, seed++);
  while (crowd.fills < 1500 || crowd.hits < 150 || crowd.evictions < 250 || crowd.parked < 250)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  crowd.stop = true;
  for (auto& t : threads) t.join();
  for (auto& store : crowd.stores) store->FailAll(EIO);
  CHECK(crowd.called == crowd.parked);
  std::printf("crowd of %zu on %s: %lu reads (%lu hits), %lu fills (%lu refused), %lu evictions, %lu waiters\n", stores,
              disk ? "disk" : "memory", crowd.reads.load(), crowd.hits.load(), crowd.fills.load(), crowd.refused.load(),
              crowd.evictions.load(), crowd.parked.load());
}

}  // namespace

int main() {
  TestCrowd(true, 1, 1 << 20);
  TestCrowd(true, 2, 100'000);
  TestCrowd(false, 1, 200'000);
  std::printf("ok\n");
}
