// A FUSE session: worker threads, one per cloned fd, that answer what the kernel asks on /dev/fuse from a FileSystem.
//
// Stateless on purpose: nodes are numbers of the FileSystem, OPEN and OPENDIR answer ENOSYS once, FORGET is ignored. Any process
// that has the fd and the same files can answer the next request. The protocol is in requests.h, waiting reads in reads.h.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "../base/status.h"
#include "requests.h"

namespace ocifs::fuse {

class Session {
 public:
  struct Options {
    // The mounted /dev/fuse fd, and clones of it that a process before this one made; taken over.
    std::vector<int> fds;
    unsigned workers = 4;
    std::unique_ptr<FileSystem> files;
    // Called from workers, must not block. Not called again for spans that somebody already waits for is not promised.
    std::function<void(const Miss&)> on_miss;
    // Once, from the last worker that leaves. `err` 0: unmounted or stopped; otherwise the errno that ended the session.
    std::function<void(int err)> on_end;
  };
  static Status Start(Options options, std::shared_ptr<Session>* out);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Stops the workers; what is parked is answered with EIO, or left to a process that has the fd too and asks for it again.
  // The mount itself is the caller's to remove, before or after. The fds close with the last owner: reads that are being
  // answered at this moment hold the session too.
  void Stop(Parked parked = Parked::kFail);
  // All that this session reads from, the mounted one first. A clone that is closed by its last owner takes the requests that
  // were read from it along (ECONNABORTED), so whoever wants to go on after this process needs all of them.
  std::vector<int> fds() const;
  // Asks the kernel to send all unanswered requests again (after adopting the fds of a dead process).
  Status Resend();
  const Counters& counters() const { return counters_; }

 private:
  struct Worker;

  explicit Session(Options o);
  Status StartWorkers();
  void Run(Worker& w);

  const Options o_;
  Counters counters_;
  Reads reads_;
  Requests requests_;
  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> running_{0};
  std::atomic<int> end_err_{0};
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace ocifs::fuse
