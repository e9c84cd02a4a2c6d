// Fills one span of a SpanStore: decode, check, write, commit. Runs on a pool thread.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "span_store.h"

namespace ocifs::layer {

struct FillInput {
  uint64_t span = 0;
  bool gzip = true;        // false: the blob is the tar itself and [begin, end) are the span's bytes
  int fd = -1;             // compressed bytes, present in [begin, end)
  uint64_t begin = 0, end = 0;
  uint8_t bits = 0;
  bool at_header = false;  // `begin` is a gzip header
  bool last = false;       // the stream must end with this span
  int zinfo_fd = -1;
  int64_t window_offset = -1;       // of this checkpoint's window in the zinfo; -1: none
  int64_t next_window_offset = -1;  // of the next checkpoint's window; -1: none
  std::optional<std::array<uint8_t, 32>> digest;  // sha256 of the uncompressed span
  bool discard = false;    // only check: nothing is written or committed
  bool only_memory = false;  // there is no room for it on disk just now
};

// Where the time of a fill went.
struct FillTimes {
  uint64_t began_ns = 0;   // CLOCK_MONOTONIC
  uint64_t filled_ns = 0;  // all bytes are decoded, written and checked, and nobody was told yet
  uint64_t digest_ns = 0;  // how long of that was hashing
};

// On success `degraded` tells why the disk cache was given up, if it was just now (full, read-only).
Status FillSpan(SpanStore& store, const FillInput& in, std::string* degraded, FillTimes* times = nullptr);

// Reads a suspect span from `data` and settles it by its digest: present when right, absent when wrong or unknown.
Status CheckSuspect(SpanStore& store, uint64_t span, const std::optional<std::array<uint8_t, 32>>& digest, bool* good);

}  // namespace ocifs::layer
