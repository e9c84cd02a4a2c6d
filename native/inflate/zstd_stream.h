// A zstd blob (RFC 8878) that streams by: frames and skippable frames one behind the other, content checksums verified.
#pragma once
#include <memory>

#include "stepper.h"

namespace ocifs::inflate {

// A frame may ask its decoder to remember up to 2^27 bytes, as zstd(1) allows without --long; more is refused.
constexpr int kZstdWindowLogMax = 27;

class ZstdStream : public Stepper {
 public:
  static std::unique_ptr<ZstdStream> Create();
  // After the last byte of input and of output: `corrupt` when the blob ends inside a frame, or is empty.
  virtual Status Finish() const = 0;
};

}  // namespace ocifs::inflate
