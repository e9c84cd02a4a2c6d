// Records the checkpoints of a gzip blob while it streams by: inflates it, checks every member's CRC-32 and length, gives the
// uncompressed bytes to the caller and writes the zinfo. Checkpoints are those of erofs-utils for one member and of SOCI for
// several: the first deflate block, then each block boundary more than a span behind the last checkpoint.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "stepper.h"

namespace ocifs::inflate {

struct RecorderOptions {
  int zinfo_fd = -1;  // empty file, written with pwrite; stays the caller's
  uint64_t span_size = 0;
  uint64_t max_checkpoints = 0;
  bool zlib = false;  // inflate with zlib even where ISA-L is available; the zinfo is the same
};

struct Recorded {
  uint64_t compressed_size = 0;
  uint64_t uncompressed_size = 0;
  uint64_t checkpoint_count = 0;
  uint64_t trailing_bytes = 0;  // behind the last member and its zero padding: ignored, as gzip(1) does
};

class Recorder : public Stepper {
 public:
  static std::unique_ptr<Recorder> Create(const RecorderOptions& options);
  // After the last byte of input and of output: `corrupt` when the blob ends inside a member.
  virtual Status Finish(Recorded* result) = 0;
  // Uncompressed bytes before each checkpoint so far: where spans begin.
  virtual const std::vector<uint64_t>& span_starts() const = 0;
};

}  // namespace ocifs::inflate
