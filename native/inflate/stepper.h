// A decoder that is fed a stream piece by piece and gives its output piece by piece.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../base/status.h"

namespace ocifs::inflate {

class Stepper {
 public:
  virtual ~Stepper() = default;
  // Takes input until it is used up or `out` is full. When `out` came back full, call again, with what is left of the input
  // or with none: output may be waiting. After a failure the decoder is of no more use.
  virtual Status Step(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size, size_t* consumed, size_t* produced) = 0;
};

}  // namespace ocifs::inflate
