#include "span_decoder.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "engines.h"
#include "gzip_framing.h"

namespace ocifs::inflate {

namespace {

constexpr size_t kInputPieceBytes = 128 << 10;
constexpr size_t kOutputPieceBytes = 256 << 10;

std::string Range(const SpanInput& in) {
  return "span of compressed bytes " + std::to_string(in.begin) + ".." + std::to_string(in.end);
}

// Everything one decode holds, on the heap: about 600 KiB with the engine, whatever the span.
template <class Engine>
class SpanDecode {
 public:
  SpanDecode(const SpanInput& in, const Sink& sink) : in_(in), sink_(sink), offset_(in.begin) {}

  Status Run() {
    Status s = Start();
    while (s.ok() && produced_ < in_.out_size) {
      Decoded d;
      const size_t room = std::min<uint64_t>(kOutputPieceBytes, in_.out_size - produced_);
      s = Advance(output_, room, &d);
      if (!s.ok()) return s;
      if (d.produced != 0) s = Emit(d.produced);
      member_ended_ = d.ended && produced_ == in_.out_size;
      if (s.ok() && d.ended) s = NextMember(!member_ended_);
    }
    return s.ok() ? CheckEnd() : s;
  }

 private:
  Status Start() {
    if (in_.begin > in_.end) return Status::Usage(Range(in_) + ": ends before it begins");
    if (in_.bits > 7) return Status::Usage(Range(in_) + ": a checkpoint has at most 7 odd bits");
    if (in_.at_header) {
      framing_.StartFile();
      started_ = false;
      return NextMember(true);
    }
    if (in_.window != nullptr) {
      history_size_ = kWindowBytes;
      std::copy_n(in_.window, kWindowBytes, history_);
    }
    uint8_t partial = 0;
    if (in_.bits != 0) {
      bool got = false;
      Status s = NextByte(&partial, &got);
      if (!s.ok()) return s;
      if (!got) return Status::Corrupt(Range(in_) + ": holds no byte for the checkpoint's odd bits");
    }
    return engine_.Begin(in_.window, history_size_, in_.bits, partial);
  }

  // Fills the input piece when it is used up; it stays empty at the end of the range.
  Status Fill() {
    if (piece_.size != 0 || offset_ >= in_.end) return Status::Ok();
    const size_t want = std::min<uint64_t>(kInputPieceBytes, in_.end - offset_);
    ssize_t n;
    do n = pread(in_.fd, input_, want, static_cast<off_t>(offset_));
    while (n < 0 && errno == EINTR);
    if (n < 0) return Status::Errno(errno, Range(in_) + ": read at " + std::to_string(offset_));
    if (n == 0) return Status::Corrupt(Range(in_) + ": the file ends at " + std::to_string(offset_));
    offset_ += static_cast<uint64_t>(n);
    piece_ = Bytes{input_, static_cast<size_t>(n)};
    return Status::Ok();
  }

  // One call of the engine. Fails when it cannot go on: the range is used up in the middle of a stream.
  Status Advance(uint8_t* out, size_t room, Decoded* d) {
    Status s = Fill();
    if (!s.ok()) return s;
    const size_t before = piece_.size;
    s = engine_.Decode(&piece_, out, room, d);
    if (!s.ok()) return Status{s.err, s.code, Range(in_) + ": " + s.message};
    if (d->produced == 0 && !d->ended && piece_.size == before) stuck_ = true;
    if (stuck_ && produced_ < in_.out_size)
      return Status::Corrupt(Range(in_) + ": the data end after " + std::to_string(produced_) + " of " +
                             std::to_string(in_.out_size) + " uncompressed bytes");
    return Status::Ok();
  }

  // `output_` lies right behind `history_`, so the newest 32 KiB are contiguous whatever the piece's size.
  Status Emit(size_t n) {
    if (member_known_) {
      member_crc_ = Engine::Crc(member_crc_, output_, n);
      member_size_ += static_cast<uint32_t>(n);
    }
    produced_ += n;
    Status s = sink_(output_, n);
    if (in_.next_window != nullptr) std::copy(history_ + n, history_ + n + kWindowBytes, history_);
    history_size_ = std::min<uint64_t>(kWindowBytes, history_size_ + n);
    return s;
  }

  Status NextByte(uint8_t* byte, bool* got) {
    *got = engine_.TakeByte(byte);
    if (*got) return Status::Ok();
    Status s = Fill();
    if (!s.ok() || piece_.size == 0) return s;
    *byte = *piece_.data++;
    piece_.size--;
    *got = true;
    return Status::Ok();
  }

  // From the end of a deflate stream (or the front of the file) to the next one. `more_` becomes false when there is none:
  // an error if one is `needed`, as it is when the blob ends inside a trailer or header.
  Status NextMember(bool needed) {
    if (started_) framing_.StartTrailer(member_known_, member_crc_, member_size_);
    started_ = true;
    while (framing_.place() == GzipFraming::Place::kBetween) {
      uint8_t byte;
      bool got = false;
      Status s = NextByte(&byte, &got);
      if (!s.ok()) return s;
      if (!got) break;
      s = framing_.Push(byte);
      if (!s.ok()) return Status{s.err, s.code, Range(in_) + ": " + s.message};
    }
    more_ = framing_.place() == GzipFraming::Place::kDeflate;
    if (more_) {
      member_known_ = true;
      member_crc_ = 0;
      member_size_ = 0;
      return engine_.Begin(nullptr, 0, 0, 0);
    }
    if (!framing_.MayEnd() && (needed || in_.last))
      return Status::Corrupt(Range(in_) + ": the data end inside " + framing_.Part());
    if (needed)
      return Status::Corrupt(Range(in_) + ": the gzip stream ends after " + std::to_string(produced_) + " of " +
                             std::to_string(in_.out_size) + " uncompressed bytes");
    return Status::Ok();
  }

  // All wanted bytes are out. Looks at what follows: nothing more may come from a last span; of any other it says whether a
  // member ended here, in which case the next checkpoint's window means nothing.
  Status CheckEnd() {
    while (more_ && (in_.last || !member_ended_)) {
      Decoded d;
      uint8_t extra;
      Status s = Advance(&extra, 1, &d);
      if (!s.ok()) return s;
      if (d.produced != 0 || stuck_) break;
      if (!d.ended) continue;
      member_ended_ = true;
      s = NextMember(false);
      if (!s.ok()) return s;
    }
    if (in_.last) {
      if (!more_) return Status::Ok();
      if (stuck_) return Status::Corrupt(Range(in_) + ": the blob ends before its last gzip member does");
      return Status::Mismatch(Range(in_) + ": the stream goes on behind the " + std::to_string(in_.out_size) +
                              " uncompressed bytes that the index says are left");
    }
    if (in_.next_window == nullptr || member_ended_) return Status::Ok();
    const size_t n = history_size_;
    if (!std::equal(history_ + kWindowBytes - n, history_ + kWindowBytes, in_.next_window + kWindowBytes - n))
      return Status::Mismatch(Range(in_) + ": the output does not lead to the next checkpoint's window; the zinfo belongs to "
                                           "another blob, or one of them is damaged");
    return Status::Ok();
  }

  const SpanInput& in_;
  const Sink& sink_;
  uint64_t offset_;  // of the next pread
  uint64_t produced_ = 0;
  Bytes piece_;
  Engine engine_;
  GzipFraming framing_;
  bool started_ = true;  // a deflate stream came before the next framing, so it begins with a trailer
  bool more_ = true;     // a deflate stream is open
  bool stuck_ = false;   // the range is used up inside it
  bool member_ended_ = false;
  bool member_known_ = false;  // the open member began in this span, so its sum is known
  uint32_t member_crc_ = 0, member_size_ = 0;
  size_t history_size_ = 0;
  uint8_t history_[kWindowBytes + kOutputPieceBytes];
  uint8_t* const output_ = history_ + kWindowBytes;
  uint8_t input_[kInputPieceBytes];
};

template <class Engine>
Status Decode(const SpanInput& in, const Sink& sink) {
  // Default-initialised on purpose: the buffers need no zeroing.
  std::unique_ptr<SpanDecode<Engine>> decode(new SpanDecode<Engine>(in, sink));
  return decode->Run();
}

}  // namespace

#if OCIFS_HAVE_ISAL
Status DecodeSpan(const SpanInput& in, const Sink& sink) { return Decode<IsalEngine>(in, sink); }
#else
Status DecodeSpan(const SpanInput& in, const Sink& sink) { return Decode<ZlibEngine>(in, sink); }
#endif

Status DecodeSpanZlib(const SpanInput& in, const Sink& sink) { return Decode<ZlibEngine>(in, sink); }

}  // namespace ocifs::inflate
