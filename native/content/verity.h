// fs-verity digests as the kernel computes them (Documentation/filesystems/fsverity.rst): sha256, blocks of 4 KiB, no salt.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../base/sha256.h"
#include "../base/status.h"

namespace ocifs::content {

using Digest256 = std::array<uint8_t, 32>;

// Fed with a file's bytes in order. Memory: a block of each level of the tree, 20 KiB for 16 TiB.
class VerityHasher {
 public:
  void Update(const uint8_t* p, size_t n);
  // Of all bytes so far; to be called once.
  Digest256 Final();

 private:
  static constexpr size_t kBlock = 4096;
  struct Level {
    std::array<uint8_t, kBlock> block;
    size_t fill = 0;
  };
  void AddHash(size_t level, const Digest256& hash);
  uint64_t size_ = 0;
  std::array<uint8_t, kBlock> data_;
  size_t fill_ = 0;
  std::vector<Level> levels_;
};

// Of `size` bytes from `offset` of a file; `mismatch` when the file ends before.
Status VerityOfRange(int fd, uint64_t offset, uint64_t size, Digest256* out);

}  // namespace ocifs::content
