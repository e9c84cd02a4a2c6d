// Answers the events of one mount: the kernel's EROFS is about to read a layer's `data`, and goes on when the bytes are there.
//
// Two threads. The reader takes events and answers them; it waits for nothing else. The worker waits for spans, in no particular
// order, and copies to `data` what a full disk had left in memory. Neither waits for JavaScript.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "../base/status.h"
#include "../layer/span_store.h"
#include "event_table.h"

namespace ocifs::fanotify {

struct Miss {
  uint32_t device;  // 1-based slot
  layer::SpanRange spans;
};

struct Counters {
  std::atomic<uint64_t> events{0}, bytes{0}, parked{0}, denied{0};
};

class Watcher {
 public:
  struct Options {
    // All taken over, also when Start fails. The group's files are marked already (group.h).
    int group_fd = -1;
    int table_fd = -1;
    int index_fd = -1;  // the file that EROFS has its metadata in, open for writing; nobody else has it open
    int guard_fd = -1;  // pidfd of the process that also keeps the group; -1 when the kernel of services (PID 1) does
    bool adopted = false;  // a process before this one had the mount, which may have ended since
    std::vector<std::shared_ptr<layer::SpanStore>> devices;  // in slot order
    // Of each device: its spans are known to be right one by one. Of others all may turn out to be wrong when the last one is there.
    std::vector<bool> checked;
    // From the worker, without blocking.
    std::function<void(const Miss&)> on_miss;
    std::function<void()> on_released;                       // EROFS has let go of its files: nothing reads them any more
    std::function<void()> on_guard_gone;                     // from now on everything is refused that is not there
  };
  // Events that a process before this one read and did not answer come first.
  static Status Start(Options options, std::shared_ptr<Watcher>* out);
  ~Watcher();

  // From now on what is missing is denied: EIO for readers. What is there can be read.
  void Refuse();
  // kDeny answers all that waits; kLeave leaves it to the process that takes the descriptors next. Idempotent; joins the threads. With
  // the last descriptor of the group all protection ends.
  enum class Waiting { kDeny, kLeave };
  void Stop(Waiting waiting);

  // Of another process: what it needs to go on. The watcher's own.
  int group_fd() const { return group_; }
  int table_fd() const { return table_->fd(); }
  int index_fd() const { return index_; }
  const Counters& counters() const { return counters_; }

 private:
  class Parked;
  struct Device {
    std::shared_ptr<layer::SpanStore> store;
    uint64_t file_system = 0, inode = 0;  // 0, 0: no file, no events
    uint64_t first_missing = 0;           // GUARDED_BY the reader thread; spans before it were in `data` once
    bool stays_marked = false;            // GUARDED_BY the reader thread; or is unmarked already
  };
  struct Task {
    uint32_t entry;
    int error;  // of the wait for spans
    unsigned tries = 0;
  };
  struct Answer {
    uint32_t entry;
    bool allow;
  };
  // Shared with who is parked in a store, who may outlive this object.
  struct Inbox {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Task> tasks;
    bool check_release = false, guard_gone = false, stop = false;
  };

  explicit Watcher(Options options);
  bool AllMarksAreOurs() const;
  // Reader.
  void ReadEvents();
  void KeepOnly(int* group, int* wake, int* guard);
  void Reserve(const std::vector<uint32_t>& entries);
  bool ReadOne(int group);
  void Take(int group, const Event& event);
  void AnswerAll(int group);
  void Respond(int group, uint32_t entry, bool allow);
  void UnmarkIfWhole(int group, const Event& event);
  // Worker.
  void Work();
  void Serve(const Task& task);
  bool ServeDevice(const Task& task, uint32_t device, const Event& event, bool* allow);
  bool Released() const;
  // Any.
  bool SpansOf(uint32_t device, const Event& event, layer::SpanRange* spans) const;
  bool AllInData(const Event& event) const;
  void Give(uint32_t entry, bool allow);
  void Wake() const;

  Options options_;
  int group_ = -1, index_ = -1, wake_ = -1;
  std::unique_ptr<EventTable> table_;
  std::vector<Device> devices_;
  std::vector<uint32_t> recovered_;
  bool all_ours_ = false;
  uint32_t waiting_ = 0;      // of the reader thread: entries in use
  std::vector<bool> closes_;  // of the reader thread: the entry's number is a descriptor of its own
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::mutex mutex_;
  std::vector<Answer> answers_;                                                     // GUARDED_BY(mutex_)
  std::unordered_map<uint32_t, std::pair<uint32_t, std::shared_ptr<Parked>>> parked_;  // GUARDED_BY(mutex_): entry → device, waiter
  std::atomic<bool> refusing_{false}, stopping_{false}, deny_at_end_{false}, released_{false};
  std::deque<std::pair<std::chrono::steady_clock::time_point, Task>> later_;  // of the worker
  Counters counters_;
  std::thread reader_, worker_;
  std::mutex stop_mutex_;
};

}  // namespace ocifs::fanotify
