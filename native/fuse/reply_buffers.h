// Room for replies, lent to a worker for as long as it answers one request: a thousand workers that wait hold none of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ocifs::fuse {

class ReplyBuffers {
 public:
  // Of the process; each buffer has `bytes`, of which only what was written to takes memory.
  static ReplyBuffers& Shared();

  uint8_t* Take();
  void Return(uint8_t* buffer);

  class Lent {
   public:
    Lent() : buffer_(Shared().Take()) {}
    ~Lent() { Shared().Return(buffer_); }
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    uint8_t* get() const { return buffer_; }

   private:
    uint8_t* const buffer_;
  };

 private:
  // As many as workers are busy at a time on a machine of usual size; more are given back to the system.
  static constexpr size_t kKept = 8;

  std::mutex mutex_;
  std::vector<uint8_t*> free_;  // GUARDED_BY(mutex_)
};

}  // namespace ocifs::fuse
