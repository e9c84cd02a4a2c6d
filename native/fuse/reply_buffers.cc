#include "reply_buffers.h"

#include <linux/fuse.h>

#include "protocol.h"

namespace ocifs::fuse {

ReplyBuffers& ReplyBuffers::Shared() {
  // Never destroyed: a worker may be at its last reply while the process ends.
  static auto* const shared = new ReplyBuffers;
  return *shared;
}

uint8_t* ReplyBuffers::Take() {
  {
    std::lock_guard<std::mutex> g(mutex_);
    if (!free_.empty()) {
      uint8_t* const buffer = free_.back();
      free_.pop_back();
      return buffer;
    }
  }
  // Not filled: at this size the allocator takes pages that the system gives when they are first written to.
  return new uint8_t[sizeof(fuse_out_header) + kMaxReadBytes];
}

void ReplyBuffers::Return(uint8_t* buffer) {
  {
    std::lock_guard<std::mutex> g(mutex_);
    if (free_.size() < kKept) {
      free_.push_back(buffer);
      return;
    }
  }
  delete[] buffer;
}

}  // namespace ocifs::fuse
