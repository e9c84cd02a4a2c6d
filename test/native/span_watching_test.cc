// A layer's `data` under the kernel while it is filled: nobody may punch it, and what is to be read has to be in it.
#include <sys/xattr.h>

#include <thread>

#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::layer;

namespace {

std::vector<uint64_t> All() {
  std::vector<uint64_t> out(40);
  for (uint64_t i = 0; i < 40; i++) out[i] = i;
  return out;
}

int Watch(SpanStore& store) {
  int fd = -1;
  OK(store.Watch(&fd));
  CHECK(fd >= 0 && store.Watched());
  return fd;
}

void CheckSpan(const Layer& layer, int fd, uint64_t span) {
  const uint64_t size = layer.starts[span + 1] - layer.starts[span];
  Bytes got(size);
  CHECK(pread(fd, got.data(), size, static_cast<off_t>(layer.starts[span])) == static_cast<ssize_t>(size));
  CHECK(got == Pattern(layer.starts[span], size));
}

void TestNobodyPunches() {
  Layer layer;
  int fd;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 20; i++) layer.Fill(*store, i);
    fd = Watch(*store);
    CHECK(write(fd, "x", 1) < 0);  // read-only
  }
  // Who marked it is gone; others come, and go on writing.
  auto store = layer.Open(), other = layer.Open();
  layer.Fill(*store, 30);
  CHECK(store->data_count() == 21 && other->InData({30, 30}) && !other->InData({30, 31}));
  uint64_t freed = 1;
  CHECK(other->LeastRecent(40).empty());
  OK(other->TryEvict(All(), &freed));
  CHECK(freed == 0 && store->data_count() == 21);
  // What is given up for wrong is not there any more, but the bytes stay until others come.
  OK(store->Evict({0, 39}));
  CHECK(store->data_count() == 0);
  for (uint64_t i = 0; i < 20; i++) CheckSpan(layer, fd, i);
  layer.Fill(*store, 3);
  CHECK(store->InData({3, 3}));
  close(fd);
}

void TestAnotherBoot() {
  Layer layer;
  {
    auto store = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*store, i);
    close(Watch(*store));
    OK(store->FlushClean());
  }
  layer.boot = 2;
  auto store = layer.Open();
  uint64_t freed = 0;
  CHECK(!store->Watched());
  OK(store->TryEvict({0, 1, 2}, &freed));
  CHECK(freed > 0);
}

void TestMemoryComesToTheFile() {
  Layer layer;
  auto store = layer.Open();
  const int fd = Watch(*store);
  store->DisableDisk();
  for (uint64_t i = 4; i < 8; i++) layer.Fill(*store, i);
  CHECK(store->present(5) && !store->InData({5, 5}));
  auto outcome = SpanStore::Promotion::kBusy;
  OK(store->Promote({4, 8}, &outcome));
  CHECK(outcome == SpanStore::Promotion::kAbsent && store->InData({4, 7}));
  OK(store->Promote({4, 7}, &outcome));
  CHECK(outcome == SpanStore::Promotion::kInData);
  for (uint64_t i = 4; i < 8; i++) CheckSpan(layer, fd, i);
  close(fd);
  // Somebody else writes it.
  layer.Fill(*store, 9);
  auto other = layer.Open();
  Target target;
  OK(other->BeginSpan(9, &target));
  CHECK(target == Target::kData);
  OK(store->Promote({9, 9}, &outcome));
  CHECK(outcome == SpanStore::Promotion::kBusy);
  other->AbortSpan(target, 9);
  OK(store->Promote({9, 9}, &outcome));
  CHECK(outcome == SpanStore::Promotion::kInData && store->InData({9, 9}));
  // Without files there is nothing to watch.
  auto memory = layer.Open(false);
  int none = -1;
  FAILS(memory->Watch(&none), "unsupported");
  FAILS(memory->Promote({0, 0}, &outcome), "unsupported");
}

// Watching and giving up at once, of two stores on the same files: what is there after the mark stays.
void TestRace() {
  for (int round = 0; round < 200; round++) {
    Layer layer;
    auto watcher = layer.Open(), evictor = layer.Open();
    for (uint64_t i = 0; i < 40; i++) layer.Fill(*watcher, i);
    int fd = -1;
    std::thread b([&] {
      uint64_t freed;
      OK(evictor->TryEvict(All(), &freed));
    });
    OK(watcher->Watch(&fd));
    for (uint64_t i = 0; i < 40; i++)
      if (watcher->InData({i, i})) CheckSpan(layer, fd, i);
    b.join();
    close(fd);
  }
}

}  // namespace

int main() {
  {
    TempDirectory probe;
    const int fd = probe.Open("xattr");
    const bool can = fsetxattr(fd, "user.ocifs.watched", "x", 1, 0) == 0;
    close(fd);
    if (!can || geteuid() != 0) {
      std::printf("NOT RUN: it needs root, and a file system with user attributes\n");
      return 0;
    }
  }
  TestNobodyPunches();
  TestAnotherBoot();
  TestMemoryComesToTheFile();
  TestRace();
  std::printf("ok\n");
}
