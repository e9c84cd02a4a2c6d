// The two inflaters behind one shape, for the recorder: like engines.h, but they stop at deflate block boundaries and know the
// bit position there.
#pragma once
#include <algorithm>
#include <cstdint>

#include "engines.h"

namespace ocifs::inflate {

enum class BlockEvent { kMore, kBoundary, kEnded };

class ZlibBlockEngine {
 public:
  ZlibBlockEngine() = default;
  ZlibBlockEngine(const ZlibBlockEngine&) = delete;
  ZlibBlockEngine& operator=(const ZlibBlockEngine&) = delete;
  ~ZlibBlockEngine() {
    if (open_) inflateEnd(&z_);
  }

  Status Begin() {
    const int r = open_ ? inflateReset(&z_) : inflateInit2(&z_, -MAX_WBITS);
    open_ = r == Z_OK;
    return open_ ? Status::Ok() : Status::Errno(ENOMEM, "zlib: cannot start inflate");
  }

  // Stops at the next boundary. A boundary within the next `ignore` bytes of output need not be reported.
  Status Decode(Bytes* in, uint8_t* out, size_t out_size, uint64_t /*ignore*/, size_t* produced, BlockEvent* event) {
    z_.next_in = const_cast<Bytef*>(in->data);
    z_.avail_in = static_cast<uInt>(std::min<size_t>(in->size, 1u << 30));
    z_.next_out = out;
    z_.avail_out = static_cast<uInt>(std::min<size_t>(out_size, 1u << 30));
    const int r = ::inflate(&z_, Z_BLOCK);
    const size_t used = static_cast<size_t>(z_.next_in - in->data);
    *in = Bytes{in->data + used, in->size - used};
    *produced = static_cast<size_t>(z_.next_out - out);
    // data_type: bits 0-2 odd bits of the last byte, 64 in the last block, 128 just behind a block.
    const bool boundary = (z_.data_type & 128) != 0 && (z_.data_type & 64) == 0;
    *event = r == Z_STREAM_END ? BlockEvent::kEnded : boundary && r == Z_OK ? BlockEvent::kBoundary : BlockEvent::kMore;
    if (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR) return Status::Ok();
    if (r == Z_MEM_ERROR) return Status::Errno(ENOMEM, "zlib: inflate");
    return Status::Corrupt(std::string("deflate data is invalid: ") + (z_.msg ? z_.msg : "zlib gives no reason"));
  }

  // At a boundary: bits taken in and not used.
  uint64_t HeldBits() const { return z_.data_type & 7; }
  // Bytes taken in before that the engine will use before new ones.
  size_t Unread() const { return 0; }
  // Goes on behind a boundary; the window is the engine's own.
  template <class Source>
  Status Resume(Source&, size_t) {
    return Status::Ok();
  }
  bool TakeByte(uint8_t*) { return false; }
  static uint32_t Crc(uint32_t crc, const uint8_t* p, size_t n) { return ZlibEngine::Crc(crc, p, n); }

 private:
  z_stream z_ = {};
  bool open_ = false;
};

#if OCIFS_HAVE_ISAL
// ISA-L has no Z_BLOCK, but its state is public: with `bfinal` set while it is inside a block, it stops at that block's end as
// if the stream were over, the bit position in hand. It goes on as a reader of the checkpoint would: fresh state, window as
// dictionary, left-over bits. Far from the next checkpoint it runs at full speed and boundaries go unseen.
class IsalBlockEngine {
 public:
  Status Begin() {
    isal_inflate_init(&s_);
    armed_ = restart_ = false;
    unread_ = Bytes{};
    return Status::Ok();
  }

  Status Decode(Bytes* in, uint8_t* out, size_t out_size, uint64_t ignore, size_t* produced, BlockEvent* event) {
    *produced = 0;
    *event = BlockEvent::kMore;
    if (!armed_ && ignore > kDecodeAhead) {
      const Status s = Call(Next(in), SIZE_MAX, out, std::min<uint64_t>(out_size, ignore - kDecodeAhead), produced);
      if (s.ok() && s_.block_state == ISAL_BLOCK_FINISH) *event = BlockEvent::kEnded;
      return s;
    }
    if (!armed_) {
      bool passed = false;
      Arm();
      while (InHeader() && !passed) {
        Status s = Drain(out, out_size, produced);
        if (!s.ok() || Pending() != 0 || Next(in)->size == 0) return s;
        const uint64_t held = EngineBits();
        size_t none = 0;
        s = Call(Next(in), 1, out, 0, &none);
        if (!s.ok()) return s;
        // A block so small that it began and ended within the byte leaves fewer bits than an unfinished header would. There
        // cannot be two: the smallest block has ten bits.
        passed = InHeader() && EngineBits() != held + 8;
      }
      if (passed) boundary_ = true;
      Arm();
    }
    if (boundary_) {
      const Status s = Drain(out, out_size, produced);
      if (!s.ok() || Pending() != 0) return s;
      boundary_ = false;
      *event = BlockEvent::kBoundary;
      return s;
    }
    size_t n = 0;
    const Status s = Call(Next(in), SIZE_MAX, out + *produced, out_size - *produced, &n);
    *produced += n;
    block_output_ += *produced;
    if (!s.ok() || s_.block_state != ISAL_BLOCK_FINISH) return s;
    *event = armed_ && !final_ ? BlockEvent::kBoundary : BlockEvent::kEnded;
    restart_ = armed_ && !final_;
    armed_ = false;
    return s;
  }

  uint64_t HeldBits() const { return EngineBits() + 8 * unread_.size; }
  size_t Unread() const { return unread_.size; }

  // `source.Window()` is asked for the 32 KiB before the boundary, of which the last `window_size` belong to this member.
  template <class Source>
  Status Resume(Source& source, size_t window_size) {
    if (!restart_) return Status::Ok();
    restart_ = false;
    // Whole bytes go back in front of the input: header by header, no more than one byte may be in the engine unseen.
    const int odd = s_.read_in_length % 8;
    const uint64_t read_in = s_.read_in & ((1u << odd) - 1);
    uint64_t whole = s_.read_in >> odd;
    uint8_t bytes[sizeof unread_bytes_];
    size_t n = 0;
    for (int left = s_.read_in_length - odd; left > 0; left -= 8, whole >>= 8) bytes[n++] = static_cast<uint8_t>(whole);
    std::copy_n(unread_.data, unread_.size, bytes + n);
    n += unread_.size;
    std::copy_n(bytes, n, unread_bytes_);
    unread_ = Bytes{unread_bytes_, n};
    if (block_output_ == 0) {  // the history it keeps is still right; a flood of empty blocks must not cost a window each
      s_.block_state = ISAL_BLOCK_NEW_HDR;
    } else {
      isal_inflate_init(&s_);
    }
    if (block_output_ != 0 && window_size != 0) {
      const uint8_t* window = source.Window() + (ISAL_DEF_HIST_SIZE - window_size);
      if (isal_inflate_set_dict(&s_, const_cast<uint8_t*>(window), static_cast<uint32_t>(window_size)) != 0)
        return Status{EIO, "internal", "ISA-L: refuses the window"};
    }
    s_.read_in = read_in;
    s_.read_in_length = odd;
    return Status::Ok();
  }

  bool TakeByte(uint8_t* byte) {
    if (IsalEngine::TakeByteOf(&s_, byte)) return true;
    if (unread_.size == 0) return false;
    *byte = *unread_.data;
    unread_ = Bytes{unread_.data + 1, unread_.size - 1};
    return true;
  }
  static uint32_t Crc(uint32_t crc, const uint8_t* p, size_t n) { return IsalEngine::Crc(crc, p, n); }

 private:
  // Output that ISA-L may decode into its own buffer beyond what it was asked for (64 KiB), with room for what the bits it
  // holds can still become.
  static constexpr uint64_t kDecodeAhead = 72 << 10;

  uint64_t EngineBits() const {
    return static_cast<uint64_t>(s_.read_in_length) + 8 * static_cast<uint64_t>(s_.tmp_in_size);
  }
  // Bytes once taken in and given back come before new ones.
  Bytes* Next(Bytes* in) { return unread_.size != 0 ? &unread_ : in; }
  bool InHeader() const { return s_.block_state == ISAL_BLOCK_NEW_HDR || s_.block_state == ISAL_BLOCK_HDR; }
  int32_t Pending() const { return s_.tmp_out_valid - s_.tmp_out_processed; }

  void Arm() {
    if (armed_ || (s_.block_state != ISAL_BLOCK_CODED && s_.block_state != ISAL_BLOCK_TYPE0)) return;
    final_ = s_.bfinal != 0;
    s_.bfinal = 1;
    armed_ = true;
    block_output_ = 0;
  }

  // Gives out what was decoded ahead, without new input.
  Status Drain(uint8_t* out, size_t out_size, size_t* produced) {
    if (Pending() == 0) return Status::Ok();
    Bytes nothing;
    size_t n = 0;
    const Status s = Call(&nothing, SIZE_MAX, out + *produced, out_size - *produced, &n);
    *produced += n;
    return s;
  }

  // Gives the engine at most `max_in` bytes.
  Status Call(Bytes* in, size_t max_in, uint8_t* out, size_t out_size, size_t* produced) {
    s_.next_in = const_cast<uint8_t*>(in->data);
    s_.avail_in = static_cast<uint32_t>(std::min<size_t>({in->size, max_in, 1u << 30}));
    s_.next_out = out;
    s_.avail_out = static_cast<uint32_t>(std::min<size_t>(out_size, 1u << 30));
    const int r = isal_inflate(&s_);
    const size_t used = static_cast<size_t>(s_.next_in - in->data);
    *in = Bytes{in->data + used, in->size - used};
    *produced = static_cast<size_t>(s_.next_out - out);
    return r < 0 || r > ISAL_OUT_OVERFLOW ? Status::Corrupt(IsalError(r)) : Status::Ok();
  }

  inflate_state s_;
  Bytes unread_;
  uint8_t unread_bytes_[16];  // in fact at most the eight of `read_in`: new input is taken only when there are none
  bool armed_ = false;     // `bfinal` is ours; the stream's own is in `final_`
  bool final_ = false;
  uint64_t block_output_ = 0;  // since `armed_` was set
  bool restart_ = false;   // stopped by our `bfinal`
  bool boundary_ = false;  // a boundary was passed, its output is not yet all given out
};
#endif

}  // namespace ocifs::inflate
