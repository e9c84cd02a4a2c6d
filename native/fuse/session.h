// A FUSE session over a tarindex: speaks the kernel's protocol on /dev/fuse with one worker thread per cloned fd.
//
// Stateless on purpose: nodeid = EROFS nid, OPEN and OPENDIR answer ENOSYS once, FORGET is ignored. Any process that has
// the fd and the same index can answer the next request. Every operation and errno: docs/SEMANTICS.md.
//
// A READ whose spans are missing is parked: the miss goes to `on_miss`, the worker takes the next request, and whoever
// commits the last missing span answers.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "../base/status.h"
#include "../erofs/image.h"
#include "../layer/span_store.h"

namespace ocifs::fuse {

struct Miss {
  uint32_t device = 0;         // 1-based slot
  layer::SpanRange spans;      // wanted now
  uint64_t file_end_span = 0;  // last span of the file's extent: as far as reading ahead can make sense
};

struct Counters {
  std::atomic<uint64_t> requests{0}, reads{0}, read_bytes{0}, parked{0}, interrupted{0}, errors{0};
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  struct Options {
    int fd = -1;  // a mounted /dev/fuse fd, taken over
    unsigned workers = 4;
    std::shared_ptr<erofs::Image> image;
    std::vector<std::shared_ptr<layer::SpanStore>> devices;  // [0] is slot 1
    // Called from workers, must not block. Not called again for spans that somebody already waits for is not promised.
    std::function<void(const Miss&)> on_miss;
    // Once, from the last worker that leaves. `err` 0: unmounted or stopped; otherwise the errno that ended the session.
    std::function<void(int err)> on_end;
  };
  static Status Start(Options options, std::shared_ptr<Session>* out);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // What becomes of reads that are parked when the session stops.
  enum class Parked { kFail, kLeave };
  // Stops the workers; what is parked is answered with EIO, or left to a process that has the fd too and asks for it again.
  // The mount itself is the caller's to remove, before or after. The fds close with the last owner: reads that are being
  // answered at this moment hold the session too.
  void Stop(Parked parked = Parked::kFail);
  // Asks the kernel to send all unanswered requests again (after adopting the fd of a dead process).
  Status Resend();
  const Counters& counters() const { return counters_; }

 private:
  struct Worker;
  struct Request;
  class ParkedRead;

  explicit Session(Options o);
  Status StartWorkers();
  void Run(Worker& w);
  void Dispatch(Worker& w, const Request& r);
  void DoInit(Worker& w, const Request& r);
  void DoLookup(Worker& w, const Request& r);
  void DoGetattr(Worker& w, const Request& r);
  void DoReadlink(Worker& w, const Request& r);
  void DoRead(Worker& w, const Request& r);
  void DoReaddir(Worker& w, const Request& r, bool plus);
  void DoStatfs(Worker& w, const Request& r);
  void DoGetxattr(Worker& w, const Request& r);
  void DoListxattr(Worker& w, const Request& r);
  void DoInterrupt(Worker& w, const Request& r);

  uint64_t ToNid(uint64_t nodeid) const;
  uint64_t ToNodeid(uint64_t nid) const;
  uint64_t ToIno(uint64_t nid) const;
  Status FillAttr(uint64_t nid, void* fuse_attr) const;
  void ReplyError(int fd, uint64_t unique, int err);
  void Reply(int fd, uint64_t unique, const void* data, size_t size);

  // Tries to answer; parks what is not there. `again` is the parked read that is being resumed, or null.
  void ServeRead(int fd, uint64_t unique, uint64_t nid, uint64_t offset, uint32_t size, uint8_t* buffer,
                 std::shared_ptr<ParkedRead> again);
  void Forget(uint64_t unique);
  bool TakeInterrupted(uint64_t unique);

  Options o_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> leaving_{false};  // set before stopping_
  std::atomic<unsigned> running_{0};
  std::atomic<int> end_err_{0};
  std::vector<std::unique_ptr<Worker>> workers_;
  Counters counters_;
  uint64_t total_blocks_ = 0;

  std::mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<ParkedRead>> parked_;  // GUARDED_BY(mutex_), by unique
  // Interrupts that came before their READ was parked. The kernel never uses a unique twice, so stale ones do no harm.
  std::array<uint64_t, 64> early_interrupts_{};  // GUARDED_BY(mutex_)
  size_t early_next_ = 0;                        // GUARDED_BY(mutex_)
};

}  // namespace ocifs::fuse
