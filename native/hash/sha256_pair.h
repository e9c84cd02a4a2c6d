// Two SHA-256 sums of the same bytes with borders of their own: a layer's and its spans'. One alone waits for each instruction's result;
// two in turn take little longer than one, where the CPU has instructions for SHA. Elsewhere it is libcrypto twice.
#pragma once
#include <openssl/sha.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace ocifs {

class Sha256Pair {
 public:
  enum Lane : size_t { kFirst = 0, kSecond = 1 };

  // `accelerated` false: libcrypto even where the CPU's own instructions are there; for tests.
  explicit Sha256Pair(bool accelerated = true);

  // The next bytes of both.
  void Update(const uint8_t* data, size_t size);
  // The sum of one since it last ended; it then starts anew.
  std::array<uint8_t, 32> End(Lane lane);

 private:
  struct Stream {
    uint32_t state[8];
    uint64_t bytes = 0;
    uint8_t block[64];  // bytes % 64 of them are filled
  };

  void Start(size_t lane);
  const uint8_t* FillBlock(Stream* stream, const uint8_t* data, size_t* size);

  const bool accelerated_;
  Stream streams_[2];
  SHA256_CTX contexts_[2];
};

}  // namespace ocifs
