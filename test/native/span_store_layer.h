// A layer of known bytes for tests of the span store: a blob that is its tar, cache files, and reads that check.
#pragma once
#include <vector>

#include "../../native/base/sha256.h"
#include "../../native/layer/span_fill.h"
#include "../../native/layer/span_store.h"
#include "check.h"

namespace ocifs::layer {

using Bytes = std::vector<uint8_t>;

// Never 0, so that a byte out of a hole is never right; and different in every page.
inline uint8_t PatternAt(uint64_t offset) { return static_cast<uint8_t>(1 + (offset * 7 + offset / 4096 * 31) % 251); }

inline Bytes Pattern(uint64_t begin, uint64_t size) {
  Bytes out(size);
  for (uint64_t i = 0; i < size; i++) out[i] = PatternAt(begin + i);
  return out;
}

// Span edges on no page border.
inline std::vector<uint64_t> Starts(uint64_t spans, uint64_t size) {
  std::vector<uint64_t> out;
  for (uint64_t i = 0; i <= spans; i++) out.push_back(i * size);
  return out;
}

struct Layer {
  TempDirectory directory;
  std::vector<uint64_t> starts = Starts(40, 10'007);
  uint8_t boot = 1, partition = 1;
  uint64_t memory_bytes = 1 << 20;
  int blob = -1;

  Layer() {
    blob = directory.Open("blob");
    const Bytes all = Pattern(0, starts.back());
    CHECK(pwrite(blob, all.data(), all.size(), 0) == static_cast<ssize_t>(all.size()));
  }
  ~Layer() { close(blob); }

  Status TryOpen(std::shared_ptr<SpanStore>* out, bool disk = true) const {
    SpanStore::Options o;
    o.out_starts = starts;
    o.boot_id.fill(boot);
    o.partition.fill(partition);
    o.memory_bytes = memory_bytes;
    if (disk) {
      o.data_fd = directory.Open("data");
      o.spans_fd = directory.Open("spans");
    }
    return SpanStore::Open(std::move(o), out);
  }
  std::shared_ptr<SpanStore> Open(bool disk = true) const {
    std::shared_ptr<SpanStore> s;
    OK(TryOpen(&s, disk));
    return s;
  }
  FillInput Input(uint64_t span) const {
    FillInput in;
    in.span = span;
    in.gzip = false;
    in.fd = blob;
    in.begin = starts[span];
    in.end = starts[span + 1];
    return in;
  }
  void Fill(SpanStore& store, uint64_t span) const {
    std::string degraded;
    OK(FillSpan(store, Input(span), &degraded));
    CHECK(degraded.empty());
  }
};

// False when something is missing; wrong bytes end the test.
inline bool ReadRight(SpanStore& store, uint64_t offset, uint64_t size, SpanRange* missing = nullptr) {
  Bytes got(size);
  bool ready = false;
  SpanRange range;
  OK(store.Read(offset, size, got.data(), &ready, &range));
  if (missing) *missing = range;
  if (ready) CHECK(got == Pattern(offset, size));
  return ready;
}

inline std::array<uint8_t, 32> DigestOf(const Layer& layer, uint64_t span) {
  Sha256 sha;
  const Bytes bytes = Pattern(layer.starts[span], layer.starts[span + 1] - layer.starts[span]);
  sha.Update(bytes.data(), bytes.size());
  return sha.Final();
}

}  // namespace ocifs::layer
