#pragma once
#include <time.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace ocifs::fuse {

// CLOCK_MONOTONIC, which is what process.hrtime of Node shows.
inline uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

// Durations by powers of two: bucket i counts those below 2^(i + kFirst) ns and not below half of it, the last all that are longer.
class Histogram {
 public:
  static constexpr unsigned kFirst = 12;  // 4 µs
  static constexpr unsigned kBuckets = 26;  // to 69 s

  void Add(uint64_t ns) {
    const unsigned width = static_cast<unsigned>(std::bit_width(ns));
    const unsigned bucket = width <= kFirst ? 0 : width - kFirst;
    counts[bucket < kBuckets ? bucket : kBuckets - 1].fetch_add(1, std::memory_order_relaxed);
    total_ns.fetch_add(ns, std::memory_order_relaxed);
  }

  std::array<std::atomic<uint64_t>, kBuckets> counts{};
  std::atomic<uint64_t> total_ns{0};
};

struct Counters {
  std::atomic<uint64_t> requests{0}, reads{0}, read_bytes{0}, parked{0}, interrupted{0}, errors{0};
  // Bytes of reads that had to wait; the others came from the cache.
  std::atomic<uint64_t> waited_bytes{0};
  // Reads that were answered at once, from the request to the reply; and those that waited.
  Histogram hit_time, wait_time;
};

}  // namespace ocifs::fuse
