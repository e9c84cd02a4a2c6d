// Input: u16 piece of input, u16 piece of output, then a zstd blob. What comes out must not depend on the pieces.
#include "../../native/inflate/zstd_stream.h"

#include "fuzz.h"

using namespace ocifs;
using fuzz::Bytes;

namespace {

constexpr size_t kOutputMax = 64 << 10;

struct Outcome {
  Status status;
  bool too_long = false;
  Bytes output;
};

Outcome Decode(const Bytes& blob, size_t in_piece, size_t out_piece) {
  Outcome o;
  const auto stream = inflate::ZstdStream::Create();
  Bytes out(out_piece);
  size_t at = 0;
  for (bool full = false; at < blob.size() || full;) {
    const size_t n = std::min(in_piece, blob.size() - at);
    const Bytes piece(blob.begin() + static_cast<ptrdiff_t>(at), blob.begin() + static_cast<ptrdiff_t>(at + n));
    size_t consumed = 0, produced = 0;
    o.status = stream->Step(piece.data(), n, out.data(), out.size(), &consumed, &produced);
    fuzz::CheckStatus(o.status);
    CHECK(consumed <= n && produced <= out.size());
    if (!o.status.ok()) return o;
    CHECK(n == 0 || consumed > 0 || produced > 0);
    o.output.insert(o.output.end(), out.begin(), out.begin() + static_cast<ptrdiff_t>(produced));
    o.too_long = o.output.size() > kOutputMax;
    if (o.too_long) return o;
    at += consumed;
    full = produced == out.size();
  }
  o.status = stream->Finish();
  fuzz::CheckStatus(o.status);
  return o;
}

// Some frame asks for a window of 16 to 128 MiB (RFC 8878, 3.1.1.1): allowed, but it takes as long as a hundred other inputs.
bool AsksForMuch(const Bytes& blob) {
  static constexpr uint8_t kMagic[] = {0x28, 0xb5, 0x2f, 0xfd};
  constexpr uint8_t kSingleSegment = 0x20;
  for (auto at = blob.begin();; at++) {
    at = std::search(at, blob.end(), std::begin(kMagic), std::end(kMagic));
    if (blob.end() - at < 6) return false;
    const int window_log = 10 + (at[5] >> 3);
    if ((at[4] & kSingleSegment) == 0 && window_log >= 24 && window_log <= inflate::kZstdWindowLogMax) return true;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const size_t in_piece = 1u + input.Take<uint16_t>(), out_piece = 1u + input.Take<uint16_t>();
  const Bytes blob = input.Rest();
  if (AsksForMuch(blob)) return 0;
  const Outcome pieces = Decode(blob, in_piece, out_piece), whole = Decode(blob, blob.size() + 1, 256 << 10);
  if (pieces.too_long || whole.too_long) return 0;
  CHECK(pieces.status.ok() == whole.status.ok());
  if (pieces.status.ok()) CHECK(pieces.output == whole.output);
  return 0;
}
