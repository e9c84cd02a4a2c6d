#pragma once
#include <atomic>
#include <cstdint>

namespace ocifs::fuse {

struct Counters {
  std::atomic<uint64_t> requests{0}, reads{0}, read_bytes{0}, parked{0}, interrupted{0}, errors{0};
};

}  // namespace ocifs::fuse
