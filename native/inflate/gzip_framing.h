// What stands around the deflate streams of a gzip file (RFC 1952): the member header in front, the CRC-32 and length
// behind, and after the last member nothing, zero padding, or bytes that are not ours. Fed byte by byte, so that a field may
// straddle any two pieces of input; holds no field's content.
#pragma once
#include <cstdint>

#include "../base/status.h"

namespace ocifs::inflate {

class GzipFraming {
 public:
  enum class Place {
    kBetween,  // inside a header or a trailer: wants more bytes
    kDeflate,  // the next byte is the first of a deflate stream
    kEnd,      // behind the last member
  };

  // The next byte pushed is the first of the file: anything but a gzip header is an error.
  void StartFile();
  // The next byte pushed is the first of a trailer. `crc` and `size` (modulo 2^32) of the member are compared with it when
  // `known`: a reader that started in the middle of a member has no sum.
  void StartTrailer(bool known, uint32_t crc, uint32_t size);

  // Takes the next byte. `corrupt` for a broken header, `mismatch` for a trailer that does not fit the data.
  Status Push(uint8_t byte);

  Place place() const;
  // The input may end here: behind the last member, or just behind a trailer.
  bool MayEnd() const { return step_ == Step::kMagic1 ? !first_ : step_ == Step::kEnd; }
  // Which part the input ended in, for messages.
  const char* Part() const;
  // Bytes behind the last member and its zero padding. gzip(1) ignores them with a warning; so do we, with a count.
  uint64_t garbage() const { return garbage_; }

 private:
  enum class Step { kTrailer, kMagic1, kMagic2, kFixed, kExtraLength, kExtra, kName, kComment, kHeaderCrc, kDeflate, kEnd };
  void NextField();
  Status PushHeader(uint8_t byte);

  Step step_ = Step::kMagic1;
  bool first_ = true;
  bool known_ = false;
  uint32_t crc_ = 0, size_ = 0;
  uint64_t field_ = 0;       // little-endian value of the fixed-size field being read
  uint32_t have_ = 0;        // bytes of it so far
  uint32_t extra_left_ = 0;
  uint8_t flags_ = 0;        // FLG bits of fields still to come
  bool header_crc_wanted_ = false;
  uint32_t header_crc_ = 0;
  uint64_t garbage_ = 0;
};

}  // namespace ocifs::inflate
