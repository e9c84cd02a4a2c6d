// What the parts of the span store share: the header of `spans`, and its locks.
#pragma once
#include <fcntl.h>

#include <cerrno>

#include "span_store.h"

namespace ocifs::layer {

struct SpanStore::Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t span_count;
  uint64_t data_bytes;
  uint8_t boot_id[16];
  std::atomic<uint32_t> flags;
  uint32_t reserved;
  std::atomic<uint64_t> evict_generation;
  uint8_t partition[32];
};

// Locks in `spans` (OFD, so they hold between processes and are gone with the process): byte 0, exclusive, while the
// header changes; byte 1, shared, as long as the store is in use; a span's state byte, exclusive, while the span is
// written or evicted.
constexpr off_t kHeaderLockByte = 0, kUseLockByte = 1;

inline off_t SpanLockByte(uint64_t span) { return static_cast<off_t>(kSpansHeaderBytes + span); }

inline int SetLock(int fd, int command, short type, off_t byte, uint64_t count = 1) {
  struct flock l {};
  l.l_type = type;
  l.l_whence = SEEK_SET;
  l.l_start = byte;
  l.l_len = static_cast<off_t>(count);
  int r;
  do r = fcntl(fd, command, &l);
  while (r < 0 && errno == EINTR);
  return r;
}

class HeaderLock {
 public:
  explicit HeaderLock(int fd) : fd_(fd) {
    if (fd_ >= 0) held_ = SetLock(fd_, F_OFD_SETLKW, F_WRLCK, kHeaderLockByte) == 0;
  }
  ~HeaderLock() {
    if (held_) SetLock(fd_, F_OFD_SETLK, F_UNLCK, kHeaderLockByte);
  }
  bool held() const { return fd_ < 0 || held_; }

 private:
  int fd_;
  bool held_ = false;
};

}  // namespace ocifs::layer
