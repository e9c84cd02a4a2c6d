#include "gzip_framing.h"

#include <zlib.h>

namespace ocifs::inflate {

namespace {
constexpr uint8_t kFlagHeaderCrc = 2, kFlagExtra = 4, kFlagName = 8, kFlagComment = 16, kFlagsReserved = 0xe0;
constexpr uint8_t kMagic1 = 0x1f, kMagic2 = 0x8b, kMethodDeflate = 8;
}  // namespace

void GzipFraming::StartFile() { *this = GzipFraming(); }

void GzipFraming::StartTrailer(bool known, uint32_t crc, uint32_t size) {
  *this = GzipFraming();
  step_ = Step::kTrailer;
  first_ = false;
  known_ = known;
  crc_ = crc;
  size_ = size;
}

GzipFraming::Place GzipFraming::place() const {
  if (step_ == Step::kDeflate) return Place::kDeflate;
  return step_ == Step::kEnd ? Place::kEnd : Place::kBetween;
}

const char* GzipFraming::Part() const {
  if (step_ == Step::kTrailer) return "the trailer of a gzip member";
  return step_ == Step::kDeflate ? "deflate data" : "a gzip header";
}

// Chooses the next optional field of the header in the order of RFC 1952, or the deflate stream behind them.
void GzipFraming::NextField() {
  field_ = 0;
  have_ = 0;
  if (flags_ & kFlagExtra) {
    flags_ &= ~kFlagExtra;
    step_ = Step::kExtraLength;
  } else if (flags_ & kFlagName) {
    flags_ &= ~kFlagName;
    step_ = Step::kName;
  } else if (flags_ & kFlagComment) {
    flags_ &= ~kFlagComment;
    step_ = Step::kComment;
  } else if (header_crc_wanted_) {
    header_crc_wanted_ = false;
    step_ = Step::kHeaderCrc;
  } else {
    step_ = Step::kDeflate;
  }
}

Status GzipFraming::Push(uint8_t byte) {
  switch (step_) {
    case Step::kTrailer:
      field_ |= static_cast<uint64_t>(byte) << (8 * have_);
      if (++have_ < 8) return Status::Ok();
      if (known_ && static_cast<uint32_t>(field_) != crc_)
        return Status::Mismatch("gzip member: its CRC-32 does not fit the data; the blob is damaged");
      if (known_ && static_cast<uint32_t>(field_ >> 32) != size_)
        return Status::Mismatch("gzip member: its length field does not fit the data; the blob is damaged");
      step_ = Step::kMagic1;
      return Status::Ok();
    case Step::kMagic1:
      if (byte == kMagic1) {
        step_ = Step::kMagic2;
        return Status::Ok();
      }
      if (first_) return Status::Corrupt("gzip header: the blob does not start with the bytes 1f 8b");
      // gzip(1) takes zeros behind a member as the end of the file, even when another member follows them.
      step_ = Step::kEnd;
      garbage_ = byte != 0 ? 1 : 0;
      return Status::Ok();
    case Step::kEnd:
      if (byte != 0 || garbage_ > 0) garbage_++;
      return Status::Ok();
    case Step::kDeflate:
      return Status{EINVAL, "internal", "gzip framing: was given a byte of a deflate stream"};
    default:
      return PushHeader(byte);
  }
}

Status GzipFraming::PushHeader(uint8_t byte) {
  if (step_ == Step::kMagic2) {
    if (byte != kMagic2) {
      if (first_) return Status::Corrupt("gzip header: the blob does not start with the bytes 1f 8b");
      step_ = Step::kEnd;
      garbage_ = 2;
      return Status::Ok();
    }
    const uint8_t magic[2] = {kMagic1, kMagic2};
    header_crc_ = static_cast<uint32_t>(crc32(0, magic, 2));
    step_ = Step::kFixed;
    field_ = 0;
    have_ = 0;
    return Status::Ok();
  }
  if (step_ != Step::kHeaderCrc) header_crc_ = static_cast<uint32_t>(crc32(header_crc_, &byte, 1));
  switch (step_) {
    case Step::kFixed:  // CM, FLG, MTIME (4), XFL, OS
      field_ |= static_cast<uint64_t>(byte) << (8 * have_);
      if (++have_ < 8) return Status::Ok();
      if ((field_ & 0xff) != kMethodDeflate) return Status::Corrupt("gzip header: the method is not deflate (8)");
      flags_ = static_cast<uint8_t>(field_ >> 8);
      if (flags_ & kFlagsReserved) return Status::Corrupt("gzip header: reserved flag bits are set");
      header_crc_wanted_ = (flags_ & kFlagHeaderCrc) != 0;
      NextField();
      return Status::Ok();
    case Step::kExtraLength:
      field_ |= static_cast<uint64_t>(byte) << (8 * have_);
      if (++have_ < 2) return Status::Ok();
      extra_left_ = static_cast<uint32_t>(field_);
      step_ = Step::kExtra;
      if (extra_left_ == 0) NextField();
      return Status::Ok();
    case Step::kExtra:
      if (--extra_left_ == 0) NextField();
      return Status::Ok();
    case Step::kName:
    case Step::kComment:
      if (byte == 0) NextField();
      return Status::Ok();
    default:  // kHeaderCrc
      field_ |= static_cast<uint64_t>(byte) << (8 * have_);
      if (++have_ < 2) return Status::Ok();
      if (field_ != (header_crc_ & 0xffff)) return Status::Corrupt("gzip header: its own checksum does not fit");
      NextField();
      return Status::Ok();
  }
}

}  // namespace ocifs::inflate
