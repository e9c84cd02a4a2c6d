// Writes a zinfo v2 file while a blob is inflated: header, then one record for each checkpoint, straight to the file, so that
// memory does not grow with the layer (but for 32 bytes of digest a span). Little-endian, packed:
//   u32 count, u64 span size; then u64 in, u64 out, u8 bits, 32768 bytes of window.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../base/status.h"
#include "../hash/sha256_pair.h"
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
  // Ends the last span and writes the header.
  Status Finish();

  uint64_t count() const { return count_; }
  uint64_t out() const { return out_; }
  // SHA-256 of the uncompressed bytes of each span, 32 bytes each; complete after Finish.
  const std::vector<uint8_t>& span_digests() const { return digests_; }
  // Of all output; complete after Finish.
  const std::array<uint8_t, 32>& digest() const { return digest_; }

 private:
  void EndSpan();

  const int fd_;
  const uint64_t span_size_, max_checkpoints_;
  uint64_t count_ = 0, out_ = 0, last_out_ = 0;
  size_t ring_at_ = 0;  // where the next output byte goes
  uint8_t ring_[kWindowBytes] = {};
  uint8_t record_[kZinfoRecordBytes];
  Sha256Pair sums_;  // of all output, and of the span
  std::vector<uint8_t> digests_;
  std::array<uint8_t, 32> digest_ = {};
};

}  // namespace ocifs::inflate
