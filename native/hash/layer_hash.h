// SHA-256 of a layer's uncompressed bytes that stream by, and of each of its spans.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../base/status.h"
#include "sha256_pair.h"

namespace ocifs {

class LayerHash {
 public:
  explicit LayerHash(bool accelerated = true) : sums_(accelerated) {}

  // The next bytes, and where in the layer spans begin: ascending, none before these bytes or behind their end. Bytes before the
  // first span are in no span.
  Status Update(const uint8_t* data, size_t size, const std::vector<uint64_t>& span_starts) {
    uint64_t last = size_;
    for (const uint64_t start : span_starts) {
      if (start < last || start - size_ > size) return Status::Usage("layer hash: a span begins outside of the bytes");
      last = start;
    }
    size_t at = 0;
    for (const uint64_t start : span_starts) {
      const size_t to = static_cast<size_t>(start - size_);
      sums_.Update(data + at, to - at);
      at = to;
      BeginSpan();
    }
    sums_.Update(data + at, size - at);
    size_ += size;
    return Status::Ok();
  }

  // Ends the last span. The hash is then of no more use.
  void Finish() {
    if (in_span_) EndSpan();
    digest_ = sums_.End(Sha256Pair::kFirst);
  }

  const std::array<uint8_t, 32>& digest() const { return digest_; }
  const std::vector<uint8_t>& span_digests() const { return span_digests_; }  // 32 bytes each

 private:
  void BeginSpan() {
    if (in_span_)
      EndSpan();
    else
      sums_.End(Sha256Pair::kSecond);
    in_span_ = true;
  }
  void EndSpan() {
    const auto d = sums_.End(Sha256Pair::kSecond);
    span_digests_.insert(span_digests_.end(), d.begin(), d.end());
  }

  Sha256Pair sums_;
  uint64_t size_ = 0;
  bool in_span_ = false;
  std::array<uint8_t, 32> digest_ = {};
  std::vector<uint8_t> span_digests_;
};

}  // namespace ocifs
