// The two inflaters behind one shape, for the span decoder: raw deflate from a bit position, with a dictionary.
#pragma once
#include <zlib.h>

// OCIFS_NO_ISAL leaves ISA-L out where its header is present.
#if __has_include(<isa-l/igzip_lib.h>) && !defined(OCIFS_NO_ISAL)
#define OCIFS_HAVE_ISAL 1
#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#else
#define OCIFS_HAVE_ISAL 0
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "../base/status.h"

namespace ocifs::inflate {

// Input not yet used; an engine advances it.
struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

struct Decoded {
  size_t produced = 0;
  bool ended = false;  // the deflate stream's last block is over and all its output was given out
};

class ZlibEngine {
 public:
  ZlibEngine() = default;
  ZlibEngine(const ZlibEngine&) = delete;
  ZlibEngine& operator=(const ZlibEngine&) = delete;
  ~ZlibEngine() {
    if (open_) inflateEnd(&z_);
  }

  // Starts a deflate stream, or goes on in one: `window_size` bytes before it, and the high `bits` bits of `partial` first.
  Status Begin(const uint8_t* window, size_t window_size, uint8_t bits, uint8_t partial) {
    int r = open_ ? inflateReset(&z_) : inflateInit2(&z_, -MAX_WBITS);
    if (r != Z_OK) return Status::Errno(ENOMEM, "zlib: cannot start inflate");
    open_ = true;
    if (bits != 0) r = inflatePrime(&z_, bits, partial >> (8 - bits));
    if (r == Z_OK && window_size != 0) r = inflateSetDictionary(&z_, window, static_cast<uInt>(window_size));
    if (r != Z_OK) return Status{EIO, "internal", "zlib: refuses the checkpoint's bits or window"};
    return Status::Ok();
  }

  Status Decode(Bytes* in, uint8_t* out, size_t out_size, Decoded* result) {
    z_.next_in = const_cast<Bytef*>(in->data);
    z_.avail_in = static_cast<uInt>(in->size);
    z_.next_out = out;
    z_.avail_out = static_cast<uInt>(out_size);
    const int r = ::inflate(&z_, Z_NO_FLUSH);
    *in = Bytes{z_.next_in, z_.avail_in};
    *result = Decoded{out_size - z_.avail_out, r == Z_STREAM_END};
    if (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR) return Status::Ok();
    if (r == Z_MEM_ERROR) return Status::Errno(ENOMEM, "zlib: inflate");
    return Status::Corrupt(std::string("deflate data is invalid: ") + (z_.msg ? z_.msg : "zlib gives no reason"));
  }

  // The next whole byte that was taken in but lies behind the stream's end.
  bool TakeByte(uint8_t*) { return false; }

  static uint32_t Crc(uint32_t crc, const uint8_t* p, size_t n) {
    return static_cast<uint32_t>(crc32(crc, p, static_cast<uInt>(n)));
  }

 private:
  z_stream z_ = {};
  bool open_ = false;
};

#if OCIFS_HAVE_ISAL
inline const char* IsalError(int code) {
  switch (code) {
    case ISAL_INVALID_BLOCK: return "deflate data is invalid: bad block header";
    case ISAL_INVALID_SYMBOL: return "deflate data is invalid: bad symbol";
    case ISAL_INVALID_LOOKBACK: return "deflate data is invalid: distance too far back";
    default: return "deflate data is invalid";
  }
}

class IsalEngine {
 public:
  IsalEngine() { isal_inflate_init(&s_); }  // the odd bits' byte is asked for before Begin

  Status Begin(const uint8_t* window, size_t window_size, uint8_t bits, uint8_t partial) {
    isal_inflate_init(&s_);
    if (window_size != 0 && isal_inflate_set_dict(&s_, const_cast<uint8_t*>(window), static_cast<uint32_t>(window_size)) != 0)
      return Status{EIO, "internal", "ISA-L: refuses the checkpoint's window"};
    s_.read_in = bits != 0 ? partial >> (8 - bits) : 0;
    s_.read_in_length = bits;
    return Status::Ok();
  }

  Status Decode(Bytes* in, uint8_t* out, size_t out_size, Decoded* result) {
    s_.next_in = const_cast<uint8_t*>(in->data);
    s_.avail_in = static_cast<uint32_t>(in->size);
    s_.next_out = out;
    s_.avail_out = static_cast<uint32_t>(out_size);
    const int r = isal_inflate(&s_);
    *in = Bytes{s_.next_in, s_.avail_in};
    *result = Decoded{out_size - s_.avail_out, s_.block_state == ISAL_BLOCK_FINISH};
    return r < 0 || r > ISAL_OUT_OVERFLOW ? Status::Corrupt(IsalError(r)) : Status::Ok();
  }

  // ISA-L reads ahead into a 64-bit buffer. Deflate ends anywhere in a byte; what follows starts with the next whole one.
  static bool TakeByteOf(inflate_state* s, uint8_t* byte) {
    if (s->read_in_length < 8) return false;
    const int odd = s->read_in_length % 8;
    s->read_in >>= odd;
    s->read_in_length -= odd;
    *byte = static_cast<uint8_t>(s->read_in);
    s->read_in >>= 8;
    s->read_in_length -= 8;
    return true;
  }
  bool TakeByte(uint8_t* byte) { return TakeByteOf(&s_, byte); }

  static uint32_t Crc(uint32_t crc, const uint8_t* p, size_t n) {
    return crc32_gzip_refl(crc, const_cast<unsigned char*>(p), n);
  }

 private:
  inflate_state s_;
};
#endif

}  // namespace ocifs::inflate
