#include "checkpoint_writer.h"

#include <unistd.h>

#include <algorithm>
#include <string>

namespace ocifs::inflate {

namespace {

void StoreLe(uint8_t* p, uint64_t v, int bytes) {
  for (int i = 0; i < bytes; i++) p[i] = static_cast<uint8_t>(v >> (8 * i));
}

Status WriteAt(int fd, const uint8_t* p, size_t n, uint64_t offset) {
  while (n > 0) {
    const ssize_t w = pwrite(fd, p, n, static_cast<off_t>(offset));
    if (w < 0 && errno == EINTR) continue;
    if (w < 0) return Status::Errno(errno, "zinfo: write at " + std::to_string(offset));
    p += w;
    n -= static_cast<size_t>(w);
    offset += static_cast<uint64_t>(w);
  }
  return Status::Ok();
}

}  // namespace

void CheckpointWriter::Output(const uint8_t* data, size_t size) {
  if (size == 0) return;
  out_ += size;
  if (size >= kWindowBytes) {
    std::copy_n(data + size - kWindowBytes, kWindowBytes, ring_);
    ring_at_ = 0;
    return;
  }
  const size_t first = std::min(size, kWindowBytes - ring_at_);
  std::copy_n(data, first, ring_ + ring_at_);
  std::copy_n(data + first, size - first, ring_);
  ring_at_ = (ring_at_ + size) % kWindowBytes;
}

const uint8_t* CheckpointWriter::Window() {
  uint8_t* const window = record_ + 17;
  std::copy_n(ring_ + ring_at_, kWindowBytes - ring_at_, window);
  std::copy_n(ring_, ring_at_, window + kWindowBytes - ring_at_);
  return window;
}

Status CheckpointWriter::Checkpoint(uint64_t in, uint8_t bits) {
  if (count_ >= max_checkpoints_)
    return Status::Limit("zinfo: the layer needs more than " + std::to_string(max_checkpoints_) +
                         " checkpoints; index it with a larger span size");
  StoreLe(record_, in, 8);
  StoreLe(record_ + 8, out_, 8);
  record_[16] = bits;
  Window();
  Status s = WriteAt(fd_, record_, kZinfoRecordBytes, kZinfoHeaderBytes + count_ * kZinfoRecordBytes);
  count_++;
  span_starts_.push_back(out_);
  last_out_ = out_;
  return s;
}

Status CheckpointWriter::Finish() {
  uint8_t header[kZinfoHeaderBytes];
  StoreLe(header, count_, 4);
  StoreLe(header + 4, span_size_, 8);
  return WriteAt(fd_, header, sizeof header, 0);
}

}  // namespace ocifs::inflate
