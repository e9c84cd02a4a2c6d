// Events before reads: a process that reads a file with holes waits until they are filled, whoever has to fill them.
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "../../native/fanotify/event_table.h"
#include "../../native/fanotify/group.h"
#include "../../native/fanotify/watcher.h"
#include "span_store_layer.h"

using namespace ocifs;
using namespace ocifs::fanotify;
using layer::Bytes;
using layer::Layer;
using layer::Pattern;
using layer::SpanStore;

namespace {

template <class T>
class Box {
 public:
  void Put(T value) {
    std::lock_guard<std::mutex> g(mutex_);
    values_.push_back(value);
    wake_.notify_all();
  }
  T Take() {
    std::unique_lock<std::mutex> g(mutex_);
    wake_.wait(g, [&] { return !values_.empty(); });
    T value = values_.front();
    values_.pop_front();
    return value;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<T> values_;
};

// A marked layer, and the descriptors that outlive a watcher.
struct Stage {
  Layer layer;
  std::shared_ptr<SpanStore> store;
  int group = -1, table = -1, index = -1, marked = -1;
  Box<Miss> misses;
  Box<int> released;

  Stage() {
    store = layer.Open();
    OK(store->Watch(&marked));
    OK(CreateGroup(&group));
    OK(EventTable::Create(&table));
    OK(MarkData(group, marked));
    index = layer.directory.Open("index");
    OK(MarkRelease(group, index));
  }
  ~Stage() {
    for (const int fd : {group, table, index, marked}) close(fd);
  }

  std::shared_ptr<Watcher> Start(bool adopted = false) {
    Watcher::Options o;
    o.group_fd = dup(group);
    o.table_fd = dup(table);
    o.index_fd = dup(index);
    o.adopted = adopted;
    o.devices = {store};
    o.checked = {true};
    o.on_miss = [this](const Miss& m) { misses.Put(m); };
    o.on_released = [this] { released.Put(1); };
    o.on_guard_gone = [] { CHECK(false); };
    std::shared_ptr<Watcher> w;
    OK(Watcher::Start(std::move(o), &w));
    return w;
  }

  // A process of its own that reads span `span` as the kernel's EROFS would: 0 right, 1 wrong bytes, else the errno.
  pid_t Read(uint64_t span) const {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    const int fd = open((layer.directory.path + "/data").c_str(), O_RDONLY);
    static uint8_t got[10'007];
    const uint64_t at = layer.starts[span];
    const ssize_t n = pread(fd, got, sizeof got, static_cast<off_t>(at));
    if (n < 0) _exit(errno);
    for (ssize_t i = 0; i < n; i++)
      if (got[i] != layer::PatternAt(at + static_cast<uint64_t>(i))) _exit(1);
    _exit(n == sizeof got ? 0 : 1);
  }
};

// The kernel asks for whole pages, so neighbours may be among them.
void Fill(Stage& s, const Miss& miss) {
  for (uint64_t i = miss.spans.first; i <= miss.spans.last; i++)
    if (!s.store->InData({i, i})) s.layer.Fill(*s.store, i);
}

int Outcome(pid_t reader) {
  int status = 0;
  CHECK(waitpid(reader, &status, 0) == reader && WIFEXITED(status));
  return WEXITSTATUS(status);
}

bool Runs(pid_t reader) { return waitpid(reader, nullptr, WNOHANG) == 0; }

void TestTable() {
  int fd = -1;
  OK(EventTable::Create(&fd));
  std::unique_ptr<EventTable> table;
  OK(EventTable::Map(dup(fd), &table));
  CHECK(table->Recover().empty());
  const uint32_t a = table->Add({7, 1, 4096, 8192}), b = table->Add({0, 2, 0, 1});
  CHECK(a != b && table->at(b).fd == 0 && table->at(a).count == 8192);
  // As docs/FORMATS.md has it: the next version of the program may be the one that goes on.
  uint8_t head[16], entry[48];
  CHECK(pread(fd, head, sizeof head, 0) == sizeof head && std::memcmp(head, "OCIFSEVT\1\0\0\0\0\4\0\0", 16) == 0);
  CHECK(pread(fd, entry, sizeof entry, 80) == sizeof entry && lseek(fd, 0, SEEK_END) == 80 + 1024 * 24);
  CHECK(std::memcmp(entry, "\10\0\0\0\1\0\0\0\0\20\0\0\0\0\0\0\0\40\0\0\0\0\0\0\1\0\0\0\2\0\0\0", 32) == 0);
  // An event whose reader ended before it was entered; and one that was.
  struct {
    fanotify_event_metadata metadata;
    RangeInfo range;
  } event{};
  event.metadata.event_len = sizeof event;
  event.metadata.metadata_len = sizeof event.metadata;
  event.metadata.mask = FAN_PRE_ACCESS;
  event.metadata.fd = 9;
  event.range.header = {FAN_EVENT_INFO_TYPE_RANGE, 0, sizeof event.range};
  event.range.offset = 12288;
  event.range.count = 100;
  for (int known = 0; known < 2; known++) {
    std::memcpy(table->inbox(), &event, sizeof event);
    std::unique_ptr<EventTable> next;
    OK(EventTable::Map(dup(fd), &next));
    const auto found = next->Recover();
    CHECK(found.size() == 3);
    const Event last = next->at(found.back());
    CHECK(last.fd == 9 && last.device == 0 && last.offset == 12288 && last.count == 100);
  }
  table->Remove(a);
  CHECK(table->Recover().size() == 2);
  for (uint32_t i = 2; i < kEventsMax; i++) CHECK(table->Add({static_cast<int32_t>(i + 100), 1, 0, 1}) < kEventsMax);
  CHECK(table->Add({5000, 1, 0, 1}) == kEventsMax);
  table.reset();
  CHECK(ftruncate(fd, 100) == 0);
  FAILS(EventTable::Map(fd, &table), "corrupt");
}

void TestFilledBeforeRead() {
  Stage s;
  auto w = s.Start();
  const pid_t reader = s.Read(3);
  const Miss miss = s.misses.Take();
  CHECK(miss.device == 1 && miss.spans.first <= 3 && miss.spans.last >= 3 && miss.spans.last - miss.spans.first < 3);
  CHECK(Runs(reader));
  Fill(s, miss);
  CHECK(Outcome(reader) == 0);
  // There already: nobody is asked.
  CHECK(Outcome(s.Read(3)) == 0 && w->counters().parked == 1 && w->counters().events >= 2);
  // A failure is one.
  const pid_t failing = s.Read(5);
  s.misses.Take();
  s.store->Fail({5, 5}, ENOENT);
  CHECK(Outcome(failing) == EIO);
  // Refused while it waits, and from the start.
  const pid_t waiting = s.Read(7);
  s.misses.Take();
  w->Refuse();
  CHECK(Outcome(waiting) == EIO && Outcome(s.Read(8)) == EIO && Outcome(s.Read(3)) == 0);
}

void TestNextProcessAnswers() {
  Stage s;
  auto first = s.Start();
  pid_t readers[4];
  for (uint64_t i = 0; i < 4; i++) {
    readers[i] = s.Read(10 + 3 * i);
    s.misses.Take();
  }
  first->Stop(Watcher::Waiting::kLeave);
  first.reset();
  // Comes while nobody listens.
  const pid_t late = s.Read(23);
  auto second = s.Start(true);
  for (uint64_t i = 0; i < 5; i++) {
    const Miss miss = s.misses.Take();
    Fill(s, miss);
  }
  for (const pid_t reader : readers) CHECK(Outcome(reader) == 0);
  CHECK(Outcome(late) == 0);
  // New events do not mix with those.
  for (uint64_t i = 26; i < 35; i += 3) {
    const pid_t reader = s.Read(i);
    Fill(s, s.misses.Take());
    CHECK(Outcome(reader) == 0);
  }
  // What waits at the end is refused.
  const pid_t last = s.Read(38);
  s.misses.Take();
  second->Stop(Watcher::Waiting::kDeny);
  CHECK(Outcome(last) == EIO);
}

// More than the table holds: the rest waits in the kernel.
void TestManyWait() {
  Stage s;
  auto w = s.Start();
  std::vector<std::thread> readers;
  std::atomic<int> right{0};
  for (int i = 0; i < 1200; i++)
    readers.emplace_back([&] {
      const int fd = open((s.layer.directory.path + "/data").c_str(), O_RDONLY);
      uint8_t got[100];
      if (pread(fd, got, sizeof got, 4096) == sizeof got && Bytes(got, got + 100) == Pattern(4096, 100)) right++;
      close(fd);
    });
  for (uint32_t i = 0; i < kEventsMax; i++) s.misses.Take();
  s.layer.Fill(*s.store, 0);
  for (auto& r : readers) r.join();
  CHECK(right == 1200 && w->counters().denied == 0);
}

void TestWholeLayerIsUnmarked() {
  Stage s;
  auto w = s.Start();
  for (uint64_t i = 0; i < 40; i++) s.layer.Fill(*s.store, i);
  CHECK(Outcome(s.Read(0)) == 0);
  const uint64_t events = w->counters().events;
  CHECK(events > 0);
  for (uint64_t i = 0; i < 40; i++) CHECK(Outcome(s.Read(i)) == 0);
  CHECK(w->counters().events == events);
}

void TestRelease() {
  Stage s;
  auto w = s.Start();
  const std::string path = s.layer.directory.path + "/index";
  const int one = open(path.c_str(), O_RDONLY), two = open(path.c_str(), O_RDONLY);
  close(one);  // not the last
  close(two);
  s.released.Take();
  w.reset();
  // It happened while nobody looked.
  auto next = s.Start(true);
  s.released.Take();
}

}  // namespace

int main() {
  // A descriptor for each reader, and one for each event.
  rlimit files;
  CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
  files.rlim_cur = files.rlim_max;
  CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
  TestTable();
  int group = -1;
  if (Status s = CreateGroup(&group); !s.ok()) {
    std::printf("NOT RUN: %s\n", s.message.c_str());
    return 0;
  }
  {
    TempDirectory probe;
    const int fd = probe.Open("file");
    const Status s = MarkData(group, fd);
    close(fd);
    close(group);
    if (!s.ok()) {
      std::printf("NOT RUN: %s\n", s.message.c_str());
      return 0;
    }
  }
  TestFilledBeforeRead();
  TestNextProcessAnswers();
  TestManyWait();
  TestWholeLayerIsUnmarked();
  TestRelease();
  std::printf("ok\n");
}
