#include "verity.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ocifs::content {

static Digest256 HashBlock(const uint8_t* block, size_t n) {
  Sha256 hash;
  hash.Update(block, n);
  return hash.Final();
}

void VerityHasher::Update(const uint8_t* p, size_t n) {
  size_ += n;
  while (n > 0) {
    if (fill_ == 0 && n >= kBlock) {
      AddHash(0, HashBlock(p, kBlock));
      p += kBlock;
      n -= kBlock;
      continue;
    }
    const size_t take = std::min(n, kBlock - fill_);
    std::memcpy(data_.data() + fill_, p, take);
    fill_ += take;
    p += take;
    n -= take;
    if (fill_ == kBlock) {
      AddHash(0, HashBlock(data_.data(), kBlock));
      fill_ = 0;
    }
  }
}

void VerityHasher::AddHash(size_t level, const Digest256& hash) {
  if (level == levels_.size()) levels_.emplace_back();
  // A full block of hashes is hashed when the next one needs its place: the topmost block may be the last.
  if (levels_[level].fill == kBlock) {
    const Digest256 above = HashBlock(levels_[level].block.data(), kBlock);
    levels_[level].fill = 0;
    AddHash(level + 1, above);
  }
  Level& l = levels_[level];
  std::memcpy(l.block.data() + l.fill, hash.data(), hash.size());
  l.fill += hash.size();
}

Digest256 VerityHasher::Final() {
  if (fill_ > 0) {
    std::memset(data_.data() + fill_, 0, kBlock - fill_);
    AddHash(0, HashBlock(data_.data(), kBlock));
  }
  // The root is the only hash of the topmost level; each level below it is filled up with zeros and hashed into the next.
  Digest256 root{};
  for (size_t i = 0; i < levels_.size(); ++i) {
    Level& l = levels_[i];
    if (i + 1 == levels_.size() && l.fill == root.size()) {
      std::memcpy(root.data(), l.block.data(), root.size());
      break;
    }
    std::memset(l.block.data() + l.fill, 0, kBlock - l.fill);
    const Digest256 above = HashBlock(l.block.data(), kBlock);
    AddHash(i + 1, above);
  }
  uint8_t descriptor[256] = {};
  descriptor[0] = 1;   // version
  descriptor[1] = 1;   // sha256
  descriptor[2] = 12;  // log2 of the block size
  for (int i = 0; i < 8; ++i) descriptor[8 + i] = static_cast<uint8_t>(size_ >> (8 * i));
  std::memcpy(descriptor + 16, root.data(), root.size());
  return HashBlock(descriptor, sizeof descriptor);
}

Status VerityOfRange(int fd, uint64_t offset, uint64_t size, Digest256* out) {
  std::vector<uint8_t> buffer(std::min<uint64_t>(std::max<uint64_t>(size, 1), 256 << 10));
  VerityHasher hasher;
  while (size > 0) {
    const ssize_t n = pread(fd, buffer.data(), std::min<uint64_t>(size, buffer.size()), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, "read file content");
    if (n == 0) return Status::Mismatch("file content: the file ends before its size; it was changed meanwhile");
    hasher.Update(buffer.data(), static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  *out = hasher.Final();
  return Status::Ok();
}

}  // namespace ocifs::content
