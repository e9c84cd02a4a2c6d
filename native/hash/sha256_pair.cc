#include "sha256_pair.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define OCIFS_HAVE_SHA_NI 1
#endif

namespace ocifs {

namespace {

constexpr size_t kBlockBytes = 64;

#if OCIFS_HAVE_SHA_NI

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

bool CpuHasSha() {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0 || (c & bit_SSSE3) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
}

// `Lanes` sums of one block each for every round of the loop, their instructions side by side.
template <size_t Lanes>
__attribute__((target("sha,sse4.1,ssse3"))) inline void Compress(uint32_t* const (&states)[Lanes], const uint8_t* (&data)[Lanes],
                                                                 size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i abef[Lanes], cdgh[Lanes];
  for (size_t l = 0; l < Lanes; l++) {
    const __m128i low = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[l])), 0xb1);
    const __m128i high = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[l] + 4)), 0x1b);
    abef[l] = _mm_alignr_epi8(low, high, 8);
    cdgh[l] = _mm_blend_epi16(high, low, 0xf0);
  }
  for (; blocks > 0; blocks--) {
    __m128i abef_before[Lanes], cdgh_before[Lanes], words[Lanes][4];
    for (size_t l = 0; l < Lanes; l++) {
      abef_before[l] = abef[l];
      cdgh_before[l] = cdgh[l];
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++) {
      const __m128i k = _mm_load_si128(reinterpret_cast<const __m128i*>(kRound + 4 * i));
#pragma GCC unroll 2
      for (size_t l = 0; l < Lanes; l++) {
        __m128i& now = words[l][i % 4];
        if (i < 4) now = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data[l] + 16 * i)), swap);
        const __m128i sum = _mm_add_epi32(now, k);
        cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], sum);
        if (i >= 3 && i < 15) {
          __m128i& next = words[l][(i + 1) % 4];
          next = _mm_add_epi32(next, _mm_alignr_epi8(now, words[l][(i + 3) % 4], 4));
          next = _mm_sha256msg2_epu32(next, now);
        }
        abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32(sum, 0x0e));
        if (i >= 1 && i < 13) words[l][(i + 3) % 4] = _mm_sha256msg1_epu32(words[l][(i + 3) % 4], now);
      }
    }
    for (size_t l = 0; l < Lanes; l++) {
      abef[l] = _mm_add_epi32(abef[l], abef_before[l]);
      cdgh[l] = _mm_add_epi32(cdgh[l], cdgh_before[l]);
      data[l] += kBlockBytes;
    }
  }
  for (size_t l = 0; l < Lanes; l++) {
    const __m128i low = _mm_shuffle_epi32(abef[l], 0x1b), high = _mm_shuffle_epi32(cdgh[l], 0xb1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[l]), _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[l] + 4), _mm_alignr_epi8(high, low, 8));
  }
}

__attribute__((target("sha,sse4.1,ssse3"))) void CompressOne(uint32_t* state, const uint8_t* data, size_t blocks) {
  uint32_t* const states[1] = {state};
  const uint8_t* at[1] = {data};
  Compress<1>(states, at, blocks);
}

__attribute__((target("sha,sse4.1,ssse3"))) void CompressTwo(uint32_t* a, const uint8_t* a_data, uint32_t* b, const uint8_t* b_data,
                                                             size_t blocks) {
  uint32_t* const states[2] = {a, b};
  const uint8_t* at[2] = {a_data, b_data};
  Compress<2>(states, at, blocks);
}

#else

bool CpuHasSha() { return false; }
void CompressOne(uint32_t*, const uint8_t*, size_t) {}
void CompressTwo(uint32_t*, const uint8_t*, uint32_t*, const uint8_t*, size_t) {}

#endif

}  // namespace

Sha256Pair::Sha256Pair(bool accelerated) : accelerated_(accelerated && CpuHasSha()) {
  Start(kFirst);
  Start(kSecond);
}

void Sha256Pair::Start(size_t lane) {
  static constexpr uint32_t kInitial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  if (!accelerated_) {
    SHA256_Init(&contexts_[lane]);
    return;
  }
  std::copy_n(kInitial, 8, streams_[lane].state);
  streams_[lane].bytes = 0;
}

// Completes a block that was begun, as far as the bytes go; gives where the rest of them is.
const uint8_t* Sha256Pair::FillBlock(Stream* stream, const uint8_t* data, size_t* size) {
  const size_t filled = stream->bytes % kBlockBytes;
  stream->bytes += *size;
  if (filled == 0) return data;
  const size_t used = std::min(*size, kBlockBytes - filled);
  std::memcpy(stream->block + filled, data, used);
  *size -= used;
  if (filled + used == kBlockBytes) CompressOne(stream->state, stream->block, 1);
  return data + used;
}

void Sha256Pair::Update(const uint8_t* data, size_t size) {
  if (!accelerated_) {
    for (SHA256_CTX& context : contexts_) SHA256_Update(&context, data, size);
    return;
  }
  auto& [a, b] = streams_;
  size_t a_size = size, b_size = size;
  const uint8_t* a_data = FillBlock(&a, data, &a_size);
  const uint8_t* b_data = FillBlock(&b, data, &b_size);
  const size_t common = std::min(a_size, b_size) / kBlockBytes;
  if (common > 0) CompressTwo(a.state, a_data, b.state, b_data, common);
  const auto rest = [common](Stream* stream, const uint8_t* at, size_t left) {
    at += common * kBlockBytes;
    left -= common * kBlockBytes;
    const size_t more = left / kBlockBytes;
    if (more > 0) CompressOne(stream->state, at, more);
    if (left % kBlockBytes > 0) std::memcpy(stream->block, at + more * kBlockBytes, left % kBlockBytes);
  };
  rest(&a, a_data, a_size);
  rest(&b, b_data, b_size);
}

std::array<uint8_t, 32> Sha256Pair::End(Lane lane) {
  std::array<uint8_t, 32> digest;
  if (!accelerated_) {
    SHA256_Final(digest.data(), &contexts_[lane]);
    Start(lane);
    return digest;
  }
  Stream& stream = streams_[lane];
  uint8_t end[2 * kBlockBytes] = {};
  const size_t filled = stream.bytes % kBlockBytes;
  std::memcpy(end, stream.block, filled);
  end[filled] = 0x80;
  const size_t blocks = filled < kBlockBytes - 8 ? 1 : 2;
  for (size_t i = 0; i < 8; i++) end[blocks * kBlockBytes - 1 - i] = static_cast<uint8_t>((stream.bytes * 8) >> (8 * i));
  CompressOne(stream.state, end, blocks);
  for (size_t i = 0; i < 32; i++) digest[i] = static_cast<uint8_t>(stream.state[i / 4] >> (24 - 8 * (i % 4)));
  Start(lane);
  return digest;
}

}  // namespace ocifs
