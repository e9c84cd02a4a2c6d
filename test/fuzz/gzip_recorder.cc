// A gzip blob recorded with ISA-L and with zlib: both must write the same zinfo, and every span of it must decode to what was
// recorded, with both engines. Input:
//   u8 what the rest is (0 a gzip blob, 1 raw deflate that is wrapped into a member, 2 data to compress, 3 both of them as two
//   members), u8 how it is compressed, u16 span size, u16 piece of input, u16 piece of output; then the rest.
#include "../../native/inflate/recorder.h"

#include "../../native/inflate/checkpoint_writer.h"
#include "../../native/inflate/span_decoder.h"
#include "../../native/inflate/zinfo_table.h"
#include "deflate_reference.h"

using namespace ocifs;
using namespace ocifs::inflate;
using fuzz::Bytes;

namespace {

constexpr uint64_t kCheckpointsMax = 64;

struct Pieces {
  uint64_t span = 0;
  size_t in = 0, out = 0;
};

struct Outcome {
  Status status;
  bool too_long = false;
  Recorded recorded;
  Bytes output, zinfo;
};

Outcome Record(const Bytes& blob, const Pieces& p, bool zlib) {
  static fuzz::MemoryFile file;
  file.Resize(0);
  Outcome o;
  const auto recorder = Recorder::Create({file.fd(), p.span, kCheckpointsMax, zlib});
  Bytes out(p.out);
  size_t at = 0;
  for (bool full = false; at < blob.size() || full;) {
    const size_t n = std::min(p.in, blob.size() - at);
    // Exactly as much as may be read, so that a read beyond it is seen.
    const Bytes piece(blob.begin() + static_cast<ptrdiff_t>(at), blob.begin() + static_cast<ptrdiff_t>(at + n));
    size_t consumed = 0, produced = 0;
    o.status = recorder->Step(piece.data(), n, out.data(), out.size(), &consumed, &produced);
    fuzz::CheckStatus(o.status);
    CHECK(consumed <= n && produced <= out.size());
    if (!o.status.ok()) return o;
    CHECK(n == 0 || consumed > 0 || produced > 0);
    o.output.insert(o.output.end(), out.begin(), out.begin() + static_cast<ptrdiff_t>(produced));
    o.too_long = o.output.size() > fuzz::kOutputMax;
    if (o.too_long) return o;
    at += consumed;
    full = produced == out.size();
  }
  o.status = recorder->Finish(&o.recorded);
  fuzz::CheckStatus(o.status);
  o.zinfo = file.Content();
  return o;
}

void CheckSpans(const Bytes& blob, const Outcome& o) {
  static fuzz::MemoryFile gzip, zinfo;
  gzip.Set(blob);
  zinfo.Set(o.zinfo);
  const size_t count = o.recorded.checkpoint_count;
  CHECK(o.zinfo.size() == kZinfoHeaderBytes + count * kZinfoRecordBytes);
  std::vector<double> ins(count), outs(count);
  Bytes bits(count);
  CHECK(ReadZinfoTable(zinfo.fd(), count, ins.data(), outs.data(), bits.data()).ok());
  const auto window = [&](size_t i) { return o.zinfo.data() + kZinfoHeaderBytes + i * kZinfoRecordBytes + 17; };
  for (size_t i = 0; i < count; i++) {
    SpanInput in;
    in.fd = gzip.fd();
    in.at_header = i == 0;
    in.bits = i == 0 ? 0 : bits[i];
    in.begin = i == 0 ? 0 : static_cast<uint64_t>(ins[i]) - (in.bits != 0 ? 1 : 0);
    in.last = i + 1 == count;
    in.end = in.last ? blob.size() : static_cast<uint64_t>(ins[i + 1]);
    const auto from = static_cast<uint64_t>(outs[i]);
    const uint64_t to = in.last ? o.output.size() : static_cast<uint64_t>(outs[i + 1]);
    CHECK(from <= to && to <= o.output.size());
    in.out_size = to - from;
    in.window = i == 0 ? nullptr : window(i);
    in.next_window = in.last ? nullptr : window(i + 1);
    for (const auto decode : {DecodeSpan, DecodeSpanZlib}) {
      Bytes got;
      const Status s = decode(in, [&](const uint8_t* data, size_t size) {
        got.insert(got.end(), data, data + size);
        return Status::Ok();
      });
      CHECK(s.ok());
      CHECK(got.size() == in.out_size && std::equal(got.begin(), got.end(), o.output.begin() + static_cast<ptrdiff_t>(from)));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const int kind = input.Take<uint8_t>() % 4;
  const auto choice = input.Take<uint8_t>();
  const Pieces pieces{1u + input.Take<uint16_t>(), 1u + input.Take<uint16_t>(), 1u + input.Take<uint16_t>()};
  Bytes blob = input.Rest();
  if (kind == 1) blob = fuzz::WrapDeflate(blob);
  if (kind == 2) blob = fuzz::Compress(blob, choice);
  if (kind == 3) {
    const Bytes second = fuzz::Compress(blob, choice);
    blob = fuzz::WrapDeflate(blob);
    blob.insert(blob.end(), second.begin(), second.end());
  }
  const Outcome zlib = Record(blob, pieces, true), other = Record(blob, pieces, false);
  if (kind == 2) CHECK(zlib.status.ok() || std::strcmp(zlib.status.code, "limit") == 0);
  if (zlib.too_long || other.too_long) return 0;
  if (fuzz::IsIncompleteCode(zlib.status)) return 0;
  if (zlib.status.ok() != other.status.ok())
    std::fprintf(stderr, "zlib: %s; other: %s\n", zlib.status.message.c_str(), other.status.message.c_str());
  CHECK(zlib.status.ok() == other.status.ok());
  if (!zlib.status.ok()) return 0;
  CHECK(zlib.output == other.output && zlib.zinfo == other.zinfo);
  CHECK(zlib.recorded.trailing_bytes == other.recorded.trailing_bytes);
  if (zlib.recorded.checkpoint_count > 0) CheckSpans(blob, zlib);
  return 0;
}
