// What zlib alone makes of gzip and deflate bytes: the judge of the two engines, and the maker of valid gzip around fuzzed
// deflate.
#pragma once
#include <zlib.h>

#include "fuzz.h"

namespace ocifs::fuzz {

constexpr size_t kOutputMax = 256 << 10;

struct Inflated {
  Bytes output;
  size_t used = 0;     // compressed bytes up to the end of the stream
  bool ended = false;  // the stream's end was reached
};

// Raw deflate, up to kOutputMax bytes of it.
inline Inflated InflateAll(const uint8_t* data, size_t size, const Bytes& window = {}, int bits = 0, int partial = 0) {
  Inflated r;
  z_stream z = {};
  CHECK(inflateInit2(&z, -MAX_WBITS) == Z_OK);
  if (bits != 0) CHECK(inflatePrime(&z, bits, partial >> (8 - bits)) == Z_OK);
  if (!window.empty()) CHECK(inflateSetDictionary(&z, window.data(), static_cast<uInt>(window.size())) == Z_OK);
  r.output.resize(kOutputMax);
  z.next_in = const_cast<uint8_t*>(data);
  z.avail_in = static_cast<uInt>(size);
  z.next_out = r.output.data();
  z.avail_out = static_cast<uInt>(r.output.size());
  const int result = ::inflate(&z, Z_SYNC_FLUSH);
  r.output.resize(kOutputMax - z.avail_out);
  r.used = size - z.avail_in;
  r.ended = result == Z_STREAM_END;
  inflateEnd(&z);
  return r;
}

// `data` begins with gzip members that are whole, and ends with them or goes on with something else.
inline bool IsWholeGzip(const uint8_t* data, size_t size) {
  z_stream z = {};
  CHECK(inflateInit2(&z, MAX_WBITS + 16) == Z_OK);
  z.next_in = const_cast<uint8_t*>(data);
  z.avail_in = static_cast<uInt>(size);
  Bytes out(64 << 10);
  int result = Z_OK;
  while (result == Z_OK) {
    z.next_out = out.data();
    z.avail_out = static_cast<uInt>(out.size());
    result = ::inflate(&z, Z_SYNC_FLUSH);
    if (result == Z_STREAM_END && z.avail_in > 0 && *z.next_in == 0x1f) result = inflateReset(&z);
  }
  inflateEnd(&z);
  return result == Z_STREAM_END;
}

// zlib refuses a Huffman code that leaves bit patterns unused, or has no end of block; ISA-L decodes as long as none of them is
// needed. No compressor writes such a code, and what it decodes to is not in doubt, so this difference is no finding.
inline bool IsIncompleteCode(const Status& zlib) {
  static constexpr const char* kErrors[] = {"invalid code lengths set", "invalid literal/lengths set", "invalid distances set",
                                            "missing end-of-block"};
  return std::any_of(std::begin(kErrors), std::end(kErrors),
                     [&](const char* text) { return zlib.message.find(text) != zlib.message.npos; });
}

inline void AppendLe32(Bytes* to, uint32_t v) {
  for (int i = 0; i < 4; i++) to->push_back(static_cast<uint8_t>(v >> (8 * i)));
}

// A gzip member around raw deflate bytes, with the right trailer when they are a whole stream. The deflate bytes behind the
// stream's end are left out.
inline Bytes WrapDeflate(const Bytes& deflate) {
  Bytes out = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
  const Inflated all = InflateAll(deflate.data(), deflate.size());
  out.insert(out.end(), deflate.begin(), deflate.begin() + static_cast<ptrdiff_t>(all.used));
  if (!all.ended) return out;
  AppendLe32(&out, static_cast<uint32_t>(crc32(0, all.output.data(), static_cast<uInt>(all.output.size()))));
  AppendLe32(&out, static_cast<uint32_t>(all.output.size()));
  return out;
}

// A gzip member of `data`; `choice` sets level, strategy and how often the stream is flushed, and how.
inline Bytes Compress(const Bytes& data, uint8_t choice) {
  static constexpr int kFlushes[] = {Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_PARTIAL_FLUSH, Z_BLOCK};
  static constexpr int kStrategies[] = {Z_DEFAULT_STRATEGY, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE};
  const int level = choice % 10, flush = kFlushes[choice / 10 % 5], strategy = kStrategies[choice / 64];
  z_stream z = {};
  CHECK(deflateInit2(&z, level, Z_DEFLATED, 31, 8, strategy) == Z_OK);
  Bytes out(data.size() * 2 + 4096);
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  constexpr size_t kPieces = 8;
  for (size_t piece = 0; piece <= kPieces; piece++) {
    const size_t from = data.size() * piece / (kPieces + 1), to = data.size() * (piece + 1) / (kPieces + 1);
    z.next_in = const_cast<uint8_t*>(data.data() + from);
    z.avail_in = static_cast<uInt>(to - from);
    const int r = deflate(&z, piece == kPieces ? Z_FINISH : flush);
    CHECK(r == (piece == kPieces ? Z_STREAM_END : Z_OK) || r == Z_BUF_ERROR);
  }
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

}  // namespace ocifs::fuzz
