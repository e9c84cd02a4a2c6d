#include "recorder.h"

#include <algorithm>
#include <string>

#include "block_engines.h"
#include "checkpoint_writer.h"
#include "gzip_framing.h"
#include "span_decoder.h"

namespace ocifs::inflate {

namespace {

template <class Engine>
class RecorderOf final : public Recorder {
 public:
  explicit RecorderOf(const RecorderOptions& o) : writer_(o.zinfo_fd, o.span_size, o.max_checkpoints) { framing_.StartFile(); }

  Status Step(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size, size_t* consumed, size_t* produced) override {
    Bytes left{in, in_size};
    *consumed = *produced = 0;
    if (failed_) return Status::Usage("zinfo recorder: used after a failure");
    Status s;
    for (bool going = true; going && s.ok();) {
      if (framing_.place() == GzipFraming::Place::kDeflate) {
        s = Inflate(&left, out + *produced, out_size - *produced, produced, &going);
      } else if ((going = left.size > 0)) {
        s = PushFraming(*left.data);
        left = Bytes{left.data + 1, left.size - 1};
      }
    }
    *consumed = in_size - left.size;
    failed_ = !s.ok();
    if (failed_) return Status{s.err, s.code, "gzip at compressed byte " + std::to_string(taken_) + ": " + s.message};
    return s;
  }

  Status Finish(Recorded* result) override {
    if (failed_) return Status::Usage("zinfo recorder: used after a failure");
    if (!framing_.MayEnd()) return Status::Corrupt(std::string("gzip: the blob ends inside ") + framing_.Part());
    Status s = writer_.Finish();
    if (!s.ok()) return s;
    *result = Recorded{taken_, writer_.out(), writer_.count(), framing_.garbage()};
    return s;
  }

  const std::vector<uint64_t>& span_starts() const override { return writer_.span_starts(); }

 private:
  // One byte of a header, a trailer or behind the last member; starts the engine where a deflate stream begins.
  Status PushFraming(uint8_t byte) {
    taken_++;
    return PushTaken(byte);
  }

  Status PushTaken(uint8_t byte) {
    Status s = framing_.Push(byte);
    if (!s.ok() || framing_.place() != GzipFraming::Place::kDeflate) return s;
    member_crc_ = 0;
    member_size_ = 0;
    s = engine_.Begin();
    return s.ok() && writer_.Due() ? writer_.Checkpoint(taken_, 0) : s;
  }

  Status Inflate(Bytes* left, uint8_t* out, size_t room, size_t* produced, bool* going) {
    *going = room > 0;
    if (room == 0) return Status::Ok();
    const size_t before = left->size, unread = engine_.Unread();
    size_t n = 0;
    BlockEvent event = BlockEvent::kMore;
    Status s = engine_.Decode(left, out, room, writer_.NotDueFor(), &n, &event);
    taken_ += before - left->size;
    if (!s.ok()) return s;
    writer_.Output(out, n);
    *produced += n;
    member_crc_ = Engine::Crc(member_crc_, out, n);
    member_size_ += n;
    if (event == BlockEvent::kBoundary) return Boundary();
    if (event == BlockEvent::kEnded) return EndMember();
    *going = n > 0 || left->size != before || engine_.Unread() != unread;
    return s;
  }

  Status Boundary() {
    Status s;
    if (writer_.Due()) {
      const uint64_t position = taken_ * 8 - engine_.HeldBits();
      const uint64_t in = (position + 7) / 8;
      s = writer_.Checkpoint(in, static_cast<uint8_t>(in * 8 - position));
    }
    if (!s.ok()) return s;
    return engine_.Resume(writer_, static_cast<size_t>(std::min<uint64_t>(kWindowBytes, member_size_)));
  }

  Status EndMember() {
    framing_.StartTrailer(true, member_crc_, static_cast<uint32_t>(member_size_));
    uint8_t byte;
    Status s;
    while (s.ok() && framing_.place() != GzipFraming::Place::kDeflate && engine_.TakeByte(&byte)) s = PushTaken(byte);
    return s;
  }

  CheckpointWriter writer_;
  GzipFraming framing_;
  Engine engine_;
  uint64_t taken_ = 0;  // compressed bytes taken in, by the framing or the engine
  uint64_t member_size_ = 0;
  uint32_t member_crc_ = 0;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<Recorder> Recorder::Create(const RecorderOptions& options) {
#if OCIFS_HAVE_ISAL
  if (!options.zlib) return std::make_unique<RecorderOf<IsalBlockEngine>>(options);
#endif
  return std::make_unique<RecorderOf<ZlibBlockEngine>>(options);
}

}  // namespace ocifs::inflate
