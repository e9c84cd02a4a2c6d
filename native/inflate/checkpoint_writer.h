// Writes a zinfo v2 file while a blob is inflated: header, then one record for each checkpoint, straight to the file, so that
// memory does not grow with the layer (but for 8 bytes a span). Little-endian, packed:
//   u32 count, u64 span size; then u64 in, u64 out, u8 bits, 32768 bytes of window.
#pragma once
#include <cstdint>
#include <vector>

#include "../base/status.h"
#include "span_decoder.h"

namespace ocifs::inflate {

constexpr size_t kZinfoHeaderBytes = 12;
constexpr size_t kZinfoRecordBytes = 17 + kWindowBytes;

class CheckpointWriter {
 public:
  // The fd stays the caller's. `max_checkpoints` guards against a blob that would make an index larger than itself.
  CheckpointWriter(int fd, uint64_t span_size, uint64_t max_checkpoints)
      : fd_(fd), span_size_(span_size), max_checkpoints_(max_checkpoints) {}

  // Uncompressed bytes, in order.
  void Output(const uint8_t* data, size_t size);
  // The first block boundary gets a checkpoint, and every one that lies more than a span behind the last checkpoint.
  bool Due() const { return count_ == 0 || out_ - last_out_ > span_size_; }
  // Output bytes for which no boundary can be due.
  uint64_t NotDueFor() const { return Due() ? 0 : last_out_ + span_size_ - out_; }
  // A checkpoint here. `in` is the offset of the first compressed byte of which all bits are still to come, `bits` how many
  // high bits of the byte before it are.
  Status Checkpoint(uint64_t in, uint8_t bits);
  // The last 32 KiB of output, oldest first, zeros in front when there is less. Valid until the next Output.
  const uint8_t* Window();
  // Writes the header.
  Status Finish();

  uint64_t count() const { return count_; }
  uint64_t out() const { return out_; }
  // `out` at each checkpoint.
  const std::vector<uint64_t>& span_starts() const { return span_starts_; }

 private:
  const int fd_;
  const uint64_t span_size_, max_checkpoints_;
  uint64_t count_ = 0, out_ = 0, last_out_ = 0;
  size_t ring_at_ = 0;  // where the next output byte goes
  uint8_t ring_[kWindowBytes] = {};
  uint8_t record_[kZinfoRecordBytes];
  std::vector<uint64_t> span_starts_;
};

}  // namespace ocifs::inflate
