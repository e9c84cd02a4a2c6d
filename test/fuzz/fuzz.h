// What the fuzz targets have in common. A target is one LLVMFuzzerTestOneInput; its comment says how it reads its input, so that
// seeds can be made by hand. A check that fails aborts, and libFuzzer keeps the input.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/base/status.h"

#define CHECK(what)                                                          \
  do {                                                                       \
    if (!(what)) {                                                           \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #what); \
      std::abort();                                                          \
    }                                                                        \
  } while (0)

namespace ocifs::fuzz {

using Bytes = std::vector<uint8_t>;

// Takes numbers from the front; what an input is too short for is zero.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  template <class T>
  T Take() {
    T value{};
    const size_t n = std::min(sizeof value, size_);
    if (n != 0) std::memcpy(&value, data_, n);
    Skip(n);
    return value;
  }
  Bytes TakeBytes(size_t n) {
    n = std::min(n, size_);
    Bytes out(data_, data_ + n);
    Skip(n);
    return out;
  }
  Bytes Rest() { return TakeBytes(size_); }
  bool empty() const { return size_ == 0; }

 private:
  void Skip(size_t n) {
    data_ += n;
    size_ -= n;
  }
  const uint8_t* data_;
  size_t size_;
};

// A file in memory whose content is replaced for each input.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("ocifs-fuzz", MFD_CLOEXEC)) { CHECK(fd_ >= 0); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(fd_); }
  int fd() const { return fd_; }
  // For whoever closes what it is given.
  int Duplicate() const {
    const int fd = dup(fd_);
    CHECK(fd >= 0);
    return fd;
  }
  void Set(const Bytes& content) {
    CHECK(ftruncate(fd_, 0) == 0);
    Put(0, content.data(), content.size());
  }
  void Resize(uint64_t size) { CHECK(ftruncate(fd_, static_cast<off_t>(size)) == 0); }
  void Put(uint64_t offset, const uint8_t* data, size_t size) {
    CHECK(pwrite(fd_, data, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size));
  }
  Bytes Content() const {
    const off_t size = lseek(fd_, 0, SEEK_END);
    CHECK(size >= 0);
    Bytes out(static_cast<size_t>(size));
    CHECK(pread(fd_, out.data(), out.size(), 0) == size);
    return out;
  }

 private:
  const int fd_;
};

// A failure names its code and has a sentence for a person; success has neither.
inline void CheckStatus(const Status& s) {
  CHECK(s.ok() ? s.code[0] == 0 : s.code[0] != 0 && !s.message.empty());
  CHECK(s.ok() || std::strcmp(s.code, "internal") != 0);
}

}  // namespace ocifs::fuzz
