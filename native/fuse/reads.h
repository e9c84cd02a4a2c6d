// READ: answered at once from what is present, or parked until it is.
//
// A READ whose spans are missing is parked: the miss goes to `on_miss`, the worker takes the next request, and whoever
// commits the last missing span answers. Thread-safe.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "counters.h"
#include "file_system.h"

namespace ocifs::fuse {

struct Miss {
  uint32_t device = 0;         // 1-based slot
  layer::SpanRange spans;      // wanted now
  uint64_t parked_ns = 0;      // NowNs() when it began to wait
  uint64_t file_end_span = 0;  // last span of the file's extent: as far as reading ahead can make sense
};

// What becomes of reads that are parked when the session stops.
enum class Parked { kFail, kLeave };

struct ReadRequest {
  int fd = -1;  // where the answer goes
  uint64_t unique = 0, node = 0, offset = 0;
  uint32_t size = 0;
  uint64_t began_ns = 0;  // NowNs() when it came
};

class Reads {
 public:
  Reads(const FileSystem& files, Counters& counters, std::function<void(const Miss&)> on_miss)
      : files_(files), counters_(counters), on_miss_(std::move(on_miss)) {}
  // What has to live as long as a read is being answered: it holds the descriptors.
  void SetOwner(std::weak_ptr<void> owner) { owner_ = std::move(owner); }

  // `buffer` has room for `r.size` bytes.
  void Serve(const ReadRequest& r, uint8_t* buffer) { Serve(r, buffer, nullptr); }
  void Interrupt(uint64_t unique);
  // From now on nothing is parked. Before the workers are joined; `Finish` after it.
  void BeginStop(Parked parked);
  void Finish();

 private:
  class ParkedRead;
  enum class Outcome { kAnswered, kParked, kAgain };

  void Serve(const ReadRequest& r, uint8_t* buffer, std::shared_ptr<ParkedRead> again);
  Outcome TryServe(const ReadRequest& r, uint8_t* buffer, std::shared_ptr<ParkedRead>& again);
  Outcome Park(const ReadRequest& r, const Piece& piece, layer::SpanRange missing, std::shared_ptr<ParkedRead>& again);
  void FinishError(const ReadRequest& r, const std::shared_ptr<ParkedRead>& again, int err);
  void Forget(uint64_t unique);
  bool TakeInterrupted(uint64_t unique);

  const FileSystem& files_;
  Counters& counters_;
  const std::function<void(const Miss&)> on_miss_;
  std::weak_ptr<void> owner_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> leaving_{false};  // set before stopping_

  std::mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<ParkedRead>> parked_;  // GUARDED_BY(mutex_), by unique
  // Interrupts that came before their READ was parked. The kernel never uses a unique twice, so stale ones do no harm.
  std::array<uint64_t, 64> early_interrupts_{};  // GUARDED_BY(mutex_)
  size_t early_next_ = 0;                        // GUARDED_BY(mutex_)
};

}  // namespace ocifs::fuse
