// One span, decoded with ISA-L and with zlib, which must agree. Input:
//   u8 flags (below), u8 odd bits, u8 window's seed, u8 where the range begins, u8 what is cut off its end, u32 size wanted,
//   then the blob. Flag bits: 1 at the header, 2 with a window, 4 last, 8 with a next window, 16 a wrong one, 32 the size that
//   zlib finds instead of the given one, 64 the blob is raw deflate and wrapped into a gzip member first.
#include "../../native/inflate/span_decoder.h"

#include "deflate_reference.h"

using namespace ocifs;
using namespace ocifs::inflate;
using fuzz::Bytes;

namespace {

struct Outcome {
  Status status;
  Bytes output;
};

Outcome Decode(Status (*decode)(const SpanInput&, const Sink&), const SpanInput& in) {
  Outcome o;
  o.status = decode(in, [&](const uint8_t* data, size_t size) {
    CHECK(size > 0 && size <= in.out_size - o.output.size());
    o.output.insert(o.output.end(), data, data + size);
    return Status::Ok();
  });
  fuzz::CheckStatus(o.status);
  CHECK(!o.status.ok() || o.output.size() == in.out_size);
  return o;
}

Bytes Window(uint8_t seed) {
  Bytes w(kWindowBytes);
  for (size_t i = 0; i < w.size(); i++) w[i] = static_cast<uint8_t>(seed + i * (1 + seed % 7) + i / 256);
  return w;
}

// The deflate stream of a span that is not at a header comes to its end, and so do members behind it.
bool GoesOnWell(const fuzz::Inflated& raw, const Bytes& blob, const SpanInput& in) {
  if (!raw.ended) return false;
  constexpr uint64_t kTrailerBytes = 8;
  const uint64_t next = in.begin + (in.bits != 0 ? 1 : 0) + raw.used + kTrailerBytes;
  return next >= in.end || blob[next] != 0x1f || fuzz::IsWholeGzip(blob.data() + next, in.end - next);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::MemoryFile file;
  fuzz::Input input(data, size);
  const auto flags = input.Take<uint8_t>();
  SpanInput in;
  in.fd = file.fd();
  in.bits = input.Take<uint8_t>() % 9;
  const auto seed = input.Take<uint8_t>();
  in.begin = input.Take<uint8_t>();
  const uint64_t cut = input.Take<uint8_t>();
  in.out_size = input.Take<uint32_t>() % (fuzz::kOutputMax + 1);
  in.at_header = flags & 1;
  in.last = flags & 4;
  Bytes blob = input.Rest();
  if (flags & 64) blob = fuzz::WrapDeflate(blob);
  file.Set(blob);
  in.end = blob.size() - std::min<uint64_t>(blob.size(), cut);

  Bytes window, next;
  if (flags & 2) window = Window(seed);
  in.window = window.empty() ? nullptr : window.data();

  // The same by zlib's own reckoning, where there are no members to mind.
  fuzz::Inflated raw;
  const size_t from = in.begin + (in.bits != 0 ? 1 : 0);
  const bool comparable = !in.at_header && in.bits < 8 && from <= in.end;
  if (comparable) raw = fuzz::InflateAll(blob.data() + from, in.end - from, window, in.bits, in.bits ? blob[in.begin] : 0);
  if (flags & 32) in.out_size = raw.output.size();
  if (flags & 8) {
    Bytes all = window;
    all.insert(all.end(), raw.output.begin(), raw.output.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(raw.output.size(), in.out_size)));
    next.assign(kWindowBytes, 0);
    const size_t n = std::min(all.size(), kWindowBytes);
    std::copy_n(all.end() - static_cast<ptrdiff_t>(n), n, next.end() - static_cast<ptrdiff_t>(n));
    if (flags & 16) next[kWindowBytes - 1] ^= 0x55;
    in.next_window = next.data();
  }

  const Outcome zlib = Decode(DecodeSpanZlib, in), other = Decode(DecodeSpan, in);
  if (comparable && zlib.status.ok() && in.out_size <= raw.output.size())
    CHECK(std::equal(zlib.output.begin(), zlib.output.end(), raw.output.begin()));
  if (zlib.status.ok() && other.status.ok()) CHECK(zlib.output == other.output);
  if (zlib.status.ok() == other.status.ok()) return 0;
  // ISA-L decodes ahead of what it is asked for, so behind the span's end it may meet what zlib did not look at.
  const bool whole = in.at_header ? fuzz::IsWholeGzip(blob.data() + in.begin, in.end - in.begin) : GoesOnWell(raw, blob, in);
  if (!other.status.ok() && !whole) return 0;
  if (fuzz::IsIncompleteCode(zlib.status)) return 0;
  std::fprintf(stderr, "zlib: %s; other: %s\n", zlib.status.message.c_str(), other.status.message.c_str());
  CHECK(zlib.status.ok() == other.status.ok());
  return 0;
}
