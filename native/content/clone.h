// File contents from one file to another with as little copying as the file systems allow, and opening what others name without
// ever leaving a directory.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "../base/status.h"

namespace ocifs::content {

// How the bytes of files came to where they are: shared extents, copied within the kernel, or through memory. Files are counted.
struct Counts {
  uint64_t cloned = 0;
  uint64_t copied = 0;
};

// A descriptor that is closed at the end of its scope.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(o.Release()) {}
  Fd& operator=(Fd&& o) noexcept {
    Reset(o.Release());
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { Reset(-1); }
  int get() const { return fd_; }
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void Reset(int fd);

 private:
  int fd_ = -1;
};

// openat2(2) below `directory`: no symbolic link on the way or at the end, nothing outside, no magic link.
Status OpenBeneath(int directory, const std::string& path, int flags, Fd* out);

// Opens `name` for reading; `mismatch` unless it is a regular file of this size. A FIFO or device there blocks nobody.
Status OpenSource(int directory, const std::string& name, uint64_t size, Fd* out);
// The same checks of a descriptor that somebody else opened.
Status CheckSource(int fd, uint64_t size);

// All of `from`, which has `size` bytes, as the content of `to`, which is empty: FICLONE, else as CopyRange does. What `to` is then
// is checked: a source that changes meanwhile is a `mismatch`.
Status CloneFile(int from, uint64_t size, int to, Counts* counts);

// `size` bytes from `offset` of `from` to `to_offset` of `to`: FICLONERANGE where both are aligned, copy_file_range, then through memory.
Status CopyRange(int from, uint64_t offset, int to, uint64_t to_offset, uint64_t size, bool* cloned);

}  // namespace ocifs::content
