// SHA-256 over libcrypto's (SHA-NI where the CPU has it), linked statically: Node exports its own OpenSSL symbols.
#pragma once
#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <cstddef>

namespace ocifs {

class Sha256 {
 public:
  Sha256() { Reset(); }
  void Reset() { SHA256_Init(&c_); }
  void Update(const void* p, size_t n) { SHA256_Update(&c_, p, n); }
  std::array<uint8_t, 32> Final() {
    std::array<uint8_t, 32> d;
    SHA256_Final(d.data(), &c_);
    return d;
  }

 private:
  SHA256_CTX c_;
};

}  // namespace ocifs
