#include "watcher.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "group.h"

namespace ocifs::fanotify {

namespace {
using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kBusyPause{20};
constexpr unsigned kBusyTries = 1500;  // half a minute of another process' holding a span: it is stopped
constexpr std::chrono::milliseconds kReleasePause{10};
constexpr unsigned kReleaseTries = 300;

int CloseRange(unsigned first, unsigned last, unsigned flags) { return static_cast<int>(syscall(SYS_close_range, first, last, flags)); }
}  // namespace

class Watcher::Parked : public layer::Waiter {
 public:
  Parked(std::shared_ptr<Inbox> inbox, uint32_t entry) : inbox_(std::move(inbox)), entry_(entry) {}
  void OnReady() override { Push(0); }
  void OnError(int err) override { Push(err); }

 private:
  void Push(int err) {
    std::lock_guard<std::mutex> g(inbox_->mutex);
    inbox_->tasks.push_back({entry_, err});
    inbox_->wake.notify_one();
  }
  const std::shared_ptr<Inbox> inbox_;
  const uint32_t entry_;
};

Watcher::Watcher(Options options)
    : options_(std::move(options)), group_(options_.group_fd), index_(options_.index_fd), closes_(kEventsMax, false) {
  for (size_t i = 0; i < options_.devices.size(); i++) {
    Device d;
    d.store = options_.devices[i];
    d.stays_marked = d.store->span_count() == 0 || i >= options_.checked.size() || !options_.checked[i];
    d.store->DataIdentity(&d.file_system, &d.inode);
    devices_.push_back(std::move(d));
  }
}

Status Watcher::Start(Options options, std::shared_ptr<Watcher>* out) {
  const int table_fd = options.table_fd;
  std::shared_ptr<Watcher> w(new Watcher(std::move(options)));
  if (Status s = EventTable::Map(table_fd, &w->table_); !s.ok()) return s;
  w->wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (w->wake_ < 0) return Status::Errno(errno, "eventfd");
  w->recovered_ = w->table_->Recover();
  w->all_ours_ = w->AllMarksAreOurs();
  w->inbox_->check_release = w->options_.adopted;
  Watcher* self = w.get();
  w->reader_ = std::thread([self] { self->ReadEvents(); });
  w->worker_ = std::thread([self] { self->Work(); });
  *out = std::move(w);
  return Status::Ok();
}

Watcher::~Watcher() {
  Stop(Waiting::kLeave);
  for (const int fd : {group_, index_, wake_, options_.guard_fd})
    if (fd >= 0) close(fd);
}

void Watcher::Wake() const {
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof one);
}

void Watcher::Give(uint32_t entry, bool allow) {
  {
    std::lock_guard<std::mutex> g(mutex_);
    answers_.push_back({entry, allow});
  }
  Wake();
}

void Watcher::Refuse() {
  refusing_ = true;
  std::vector<std::pair<uint32_t, std::pair<uint32_t, std::shared_ptr<Parked>>>> waiting;
  {
    std::lock_guard<std::mutex> g(mutex_);
    waiting.assign(parked_.begin(), parked_.end());
  }
  for (auto& [entry, where] : waiting)
    if (devices_[where.first - 1].store->Unpark(where.second.get())) where.second->OnError(EIO);
}

void Watcher::Stop(Waiting waiting) {
  std::lock_guard<std::mutex> once(stop_mutex_);
  if (!reader_.joinable()) return;
  if (waiting == Waiting::kDeny) deny_at_end_ = true;
  stopping_ = true;
  {
    std::lock_guard<std::mutex> g(inbox_->mutex);
    inbox_->stop = true;
    inbox_->wake.notify_one();
  }
  worker_.join();
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (auto& [entry, where] : parked_) devices_[where.first - 1].store->Unpark(where.second.get());
    parked_.clear();
  }
  Wake();
  reader_.join();
}

// True when each file whose reads raise events is one of the devices: not when a layer's file was replaced while no process used it.
bool Watcher::AllMarksAreOurs() const {
  std::unique_ptr<FILE, int (*)(FILE*)> info(fopen(("/proc/self/fdinfo/" + std::to_string(group_)).c_str(), "re"), fclose);
  if (!info) return false;
  char line[512];
  while (fgets(line, sizeof line, info.get())) {
    unsigned long inode;
    unsigned device, flags, mask;
    if (sscanf(line, "fanotify ino:%lx sdev:%x mflags:%x mask:%x", &inode, &device, &flags, &mask) != 4 || !(mask & FAN_PRE_ACCESS))
      continue;
    // As the kernel has device numbers within.
    const auto same = [&](const Device& d) { return d.inode == inode && (major(d.file_system) << 20 | minor(d.file_system)) == device; };
    if (std::none_of(devices_.begin(), devices_.end(), same)) return false;
  }
  return true;
}

// ---- reader

void Watcher::ReadEvents() {
  prctl(PR_SET_NAME, "ocifs-events");
  int group = group_, wake = wake_, guard = options_.guard_fd;
  KeepOnly(&group, &wake, &guard);
  Reserve(recovered_);
  while (!stopping_) {
    // Without room for one more, events wait in the kernel.
    pollfd wait[3] = {{waiting_ < kEventsMax ? group : -1, POLLIN, 0}, {wake, POLLIN, 0}, {guard, POLLIN, 0}};
    if (poll(wait, 3, -1) < 0 && errno != EINTR) break;
    if (wait[1].revents) {
      uint64_t count;
      (void)!read(wake, &count, sizeof count);
      AnswerAll(group);
    }
    if (wait[2].revents & POLLIN) {
      guard = -1;
      refusing_ = true;
      std::lock_guard<std::mutex> g(inbox_->mutex);
      inbox_->guard_gone = true;
      inbox_->wake.notify_one();
    }
    if (wait[0].revents & POLLIN)
      for (int n = 0; n < 64 && waiting_ < kEventsMax && !stopping_ && ReadOne(group); n++) continue;
  }
  AnswerAll(group);
  if (!deny_at_end_) return;
  for (uint32_t i = 0; i < kEventsMax; i++)
    if (const Event e = table_->at(i); e.fd >= 0) Respond(group, i, AllInData(e));
}

// Numbers of event descriptors name the events, also those that a process before this one read. So this thread has a descriptor
// table of its own, where nothing but events gets a number. What else wants a descriptor (an eventfd of JavaScript's loop, a layer's file) is
// the worker's to do.
void Watcher::KeepOnly(int* group, int* wake, int* guard) {
  int keep[3] = {*group, *wake, *guard};
  std::sort(keep, keep + 3);
  if (CloseRange(~0u, ~0u, CLOSE_RANGE_UNSHARE) < 0 && unshare(CLONE_FILES) < 0) {
    refusing_ = true;
    return;
  }
  unsigned from = 0;
  for (const int fd : keep) {
    if (fd < 0) continue;
    if (static_cast<unsigned>(fd) > from) CloseRange(from, static_cast<unsigned>(fd) - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  CloseRange(from, ~0u, 0);
}

// A number that stands for an event of the process before must not become that of another event until it was answered.
void Watcher::Reserve(const std::vector<uint32_t>& entries) {
  waiting_ = static_cast<uint32_t>(entries.size());
  const int null = entries.empty() ? -1 : open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (const uint32_t i : entries) {
    const int fd = table_->at(i).fd;
    if (null >= 0 && fd != null && fcntl(fd, F_GETFD) < 0) closes_[i] = dup3(null, fd, O_CLOEXEC) >= 0;
    if (fd == null) closes_[i] = true;
    std::lock_guard<std::mutex> g(inbox_->mutex);
    inbox_->tasks.push_back({i, 0});
    inbox_->wake.notify_one();
  }
  const bool taken = std::any_of(entries.begin(), entries.end(), [&](uint32_t i) { return table_->at(i).fd == null; });
  if (null >= 0 && !taken) close(null);
}

// False when there is none now.
bool Watcher::ReadOne(int group) {
  table_->ClearInbox();
  const ssize_t n = read(group, table_->inbox(), kInboxBytes);
  // Other errors: the kernel could not make a descriptor for the event, and has denied it.
  if (n < 0) return errno != EAGAIN && errno != EBADF && errno != EINVAL && errno != EFAULT;
  fanotify_event_metadata metadata;
  if (n < static_cast<ssize_t>(sizeof metadata)) return false;
  std::memcpy(&metadata, table_->inbox(), sizeof metadata);
  if (!(metadata.mask & FAN_PRE_ACCESS)) {
    if (metadata.fd >= 0) close(metadata.fd);
    std::lock_guard<std::mutex> g(inbox_->mutex);
    inbox_->check_release = true;
    inbox_->wake.notify_one();
    return true;
  }
  if (metadata.fd < 0) return true;  // denied by the kernel
  Event event{metadata.fd, 0, 0, UINT64_MAX};
  RangeInfo range{};
  if (metadata.metadata_len + sizeof range <= static_cast<size_t>(n)) {
    std::memcpy(&range, table_->inbox() + metadata.metadata_len, sizeof range);
    if (range.header.info_type == FAN_EVENT_INFO_TYPE_RANGE) event.offset = range.offset, event.count = range.count;
  }
  struct stat st {};
  const bool known = fstat(event.fd, &st) == 0;
  for (size_t i = 0; known && i < devices_.size(); i++)
    if (devices_[i].inode == st.st_ino && devices_[i].file_system == st.st_dev) event.device = static_cast<uint32_t>(i + 1);
  counters_.events.fetch_add(1, std::memory_order_relaxed);
  counters_.bytes.fetch_add(event.count, std::memory_order_relaxed);
  Take(group, event);
  return true;
}

void Watcher::Take(int group, const Event& event) {
  const uint32_t entry = table_->Add(event);
  waiting_++;
  table_->ClearInbox();
  closes_[entry] = true;
  if (event.device == 0) {
    // A file under a layer's mark that is none of our layers: somebody has replaced it.
    Respond(group, entry, false);
    return;
  }
  if (AllInData(event)) {
    UnmarkIfWhole(group, event);
    Respond(group, entry, true);
    return;
  }
  std::lock_guard<std::mutex> g(inbox_->mutex);
  inbox_->tasks.push_back({entry, 0});
  inbox_->wake.notify_one();
}

void Watcher::AnswerAll(int group) {
  std::vector<Answer> answers;
  {
    std::lock_guard<std::mutex> g(mutex_);
    answers.swap(answers_);
  }
  for (const Answer& a : answers) {
    const Event event = table_->at(a.entry);
    if (a.allow && event.device != 0) UnmarkIfWhole(group, event);
    Respond(group, a.entry, a.allow);
  }
}

void Watcher::Respond(int group, uint32_t entry, bool allow) {
  const int fd = table_->at(entry).fd;
  if (!allow) counters_.denied.fetch_add(1, std::memory_order_relaxed);
  // Refused only for what is no answer of ours, such as another version's; the event stays, and waits for the group's end.
  (void)fanotify::Respond(group, fd, allow);
  table_->Remove(entry);
  waiting_--;
  if (closes_[entry]) close(fd);
  closes_[entry] = false;
}

// A layer that is there to its last byte needs no events. None of its spans is given up any more, see SpanStore::Watch.
void Watcher::UnmarkIfWhole(int group, const Event& event) {
  Device& d = devices_[event.device - 1];
  if (d.stays_marked) return;
  const uint64_t count = d.store->span_count();
  while (d.first_missing < count && d.store->InData({d.first_missing, d.first_missing})) d.first_missing++;
  if (d.first_missing < count || !d.store->InData({0, count - 1})) return;
  struct stat st {};
  // Its descriptor may stand for one of the process before.
  if (fstat(event.fd, &st) < 0 || st.st_ino != d.inode || st.st_dev != d.file_system) return;
  // What the states say, and what the file itself says.
  if (lseek(event.fd, 0, SEEK_HOLE) < static_cast<off_t>(d.store->size_bytes())) return;
  d.stays_marked = UnmarkData(group, event.fd).ok();
}

// ---- worker

void Watcher::Work() {
  prctl(PR_SET_NAME, "ocifs-fills");
  unsigned release_tries = 0;
  for (;;) {
    std::deque<Task> tasks;
    bool guard_gone;
    {
      std::unique_lock<std::mutex> g(inbox_->mutex);
      const auto due = [&] { return inbox_->stop || inbox_->check_release || inbox_->guard_gone || !inbox_->tasks.empty(); };
      if (release_tries > 0)
        inbox_->wake.wait_for(g, kReleasePause, due);
      else if (!later_.empty())
        inbox_->wake.wait_until(g, later_.front().first, due);
      else
        inbox_->wake.wait(g, due);
      if (inbox_->stop) return;
      if (inbox_->check_release) release_tries = kReleaseTries;
      inbox_->check_release = false;
      guard_gone = std::exchange(inbox_->guard_gone, false);
      tasks.swap(inbox_->tasks);
    }
    if (guard_gone) {
      Refuse();
      options_.on_guard_gone();
    }
    for (const Task& task : tasks) Serve(task);
    while (!later_.empty() && later_.front().first <= Clock::now()) {
      const Task task = later_.front().second;
      later_.pop_front();
      Serve(task);
    }
    // The descriptor counts as open for a moment after the event of its being closed.
    if (release_tries > 0) {
      release_tries--;
      if (Released()) {
        release_tries = 0;
        if (!released_.exchange(true)) options_.on_released();
      }
    }
  }
}

// Nobody else has the index open: only then may it have a lease for writing.
bool Watcher::Released() const {
  if (fcntl(index_, F_SETLEASE, F_WRLCK) < 0) return errno != EAGAIN && errno != EBUSY && errno != EINTR;
  fcntl(index_, F_SETLEASE, F_UNLCK);
  return true;
}

void Watcher::Serve(const Task& task) {
  {
    std::lock_guard<std::mutex> g(mutex_);
    parked_.erase(task.entry);
  }
  const Event event = table_->at(task.entry);
  if (event.fd < 0) return;
  bool allow = true;
  if (event.device > devices_.size()) {
    allow = false;
  } else if (event.device != 0) {
    if (!ServeDevice(task, event.device, event, &allow)) return;
  } else if (!all_ours_) {
    allow = false;
  } else {
    // It is about one of them.
    for (uint32_t device = 1; device <= devices_.size() && allow; device++)
      if (!ServeDevice(task, device, event, &allow)) return;
    allow = allow && !devices_.empty();
  }
  Give(task.entry, allow);
}

// False when it waits; else `allow` says what is known of this device.
bool Watcher::ServeDevice(const Task& task, uint32_t device, const Event& event, bool* allow) {
  layer::SpanRange spans;
  layer::SpanStore& store = *devices_[device - 1].store;
  if (!SpansOf(device, event, &spans)) return true;
  for (;;) {
    if (store.InData(spans)) return true;
    *allow = false;
    if (task.error != 0 || refusing_) return true;
    auto waiter = std::make_shared<Parked>(inbox_, task.entry);
    {
      std::lock_guard<std::mutex> g(mutex_);
      parked_[task.entry] = {device, waiter};
    }
    if (store.Park(spans, waiter)) {
      counters_.parked.fetch_add(1, std::memory_order_relaxed);
      options_.on_miss({device, spans});
      // Refuse() may have looked before it was there.
      if (refusing_ && store.Unpark(waiter.get())) waiter->OnError(EIO);
      return false;
    }
    {
      std::lock_guard<std::mutex> g(mutex_);
      parked_.erase(task.entry);
    }
    // All present, though some of it not in the file that the kernel reads.
    auto outcome = layer::SpanStore::Promotion::kInData;
    if (Status s = store.Promote(spans, &outcome); !s.ok()) return true;
    if (outcome == layer::SpanStore::Promotion::kBusy) {
      if (task.tries >= kBusyTries) return true;
      later_.push_back({Clock::now() + kBusyPause, {task.entry, 0, task.tries + 1}});
      return false;
    }
    *allow = true;
  }
}

// ---- any

// False when nothing of it is inside the layer.
bool Watcher::SpansOf(uint32_t device, const Event& event, layer::SpanRange* spans) const {
  const layer::SpanStore& store = *devices_[device - 1].store;
  const uint64_t size = store.size_bytes();
  if (event.offset >= size || event.count == 0) return false;
  *spans = {store.SpanAt(event.offset), store.SpanAt(event.offset + std::min(event.count, size - event.offset) - 1)};
  return true;
}

bool Watcher::AllInData(const Event& event) const {
  if (event.device == 0 || event.device > devices_.size()) return false;
  layer::SpanRange spans;
  return !SpansOf(event.device, event, &spans) || devices_[event.device - 1].store->InData(spans);
}

}  // namespace ocifs::fanotify
