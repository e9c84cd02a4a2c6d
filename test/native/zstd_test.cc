// The zstd stream without Node: frames made by libzstd, in pieces of any size, with damage of every kind.
#include <zstd.h>

#include "../../native/inflate/zstd_stream.h"
#include "inflate_support.h"

static Data Frame(const Data& content, int window_log = 0) {
  ZSTD_CCtx* c = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
  if (window_log != 0) {
    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
  }
  Data out(ZSTD_compressBound(content.size()));
  ZSTD_inBuffer in{content.data(), content.size(), 0};
  ZSTD_outBuffer o{out.data(), out.size(), 0};
  // In two calls, so that the window is not made as small as the content.
  ZSTD_compressStream2(c, &o, &in, ZSTD_e_flush);
  CHECK(!ZSTD_isError(ZSTD_compressStream2(c, &o, &in, ZSTD_e_end)));
  ZSTD_freeCCtx(c);
  out.resize(o.pos);
  return out;
}

static Data Skippable(size_t size) {
  Data d{0x5a, 0x2a, 0x4d, 0x18, static_cast<uint8_t>(size), static_cast<uint8_t>(size >> 8), 0, 0};
  d.resize(8 + size, 0xee);
  return d;
}

static Data Joined(const std::vector<Data>& parts) {
  Data all;
  for (const Data& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}

static Status Decode(const Data& blob, size_t in_piece, size_t out_piece, Data* output) {
  auto z = ZstdStream::Create();
  Data out(out_piece);
  size_t at = 0;
  for (bool full = false; at < blob.size() || full;) {
    const size_t n = std::min(in_piece, blob.size() - at);
    size_t consumed = 0, produced = 0;
    Status s = z->Step(blob.data() + at, n, out.data(), out.size(), &consumed, &produced);
    if (!s.ok()) {
      CHECK(!z->Step(blob.data(), 1, out.data(), out.size(), &consumed, &produced).ok() && !z->Finish().ok());
      return s;
    }
    CHECK(consumed <= n && produced <= out.size());
    CHECK(n == 0 || consumed > 0 || produced > 0);
    output->insert(output->end(), out.data(), out.data() + produced);
    at += consumed;
    full = produced == out.size();
  }
  return z->Finish();
}

int main() {
  const Data text = Text(3 << 20, 1), noise = Random(300000, 2), nothing;
  const Data blob = Joined({Skippable(300), Frame(text), Frame(nothing), Skippable(0), Frame(noise)});
  const Data want = Joined({text, noise});
  for (auto [in, out] : {std::pair<size_t, size_t>{1 << 20, 1 << 20}, {7919, 4093}, {1, 65536}, {blob.size(), want.size()}}) {
    Data got;
    OK(Decode(blob, in, out, &got));
    CHECK(got == want);
  }

  Data ignored;
  CHECK(std::string(Decode({}, 1, 1, &ignored).code) == "corrupt");
  // Cut short anywhere: inside a frame it is an error, between two it is not this layer's business to know.
  const Data frame = Frame(noise);
  for (size_t cut : {size_t{1}, size_t{5}, size_t{100}, frame.size() / 2, frame.size() - 1}) {
    CHECK(std::string(Decode(Data(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(cut)), 4096, 4096, &ignored).code) == "corrupt");
  }
  for (size_t at : {frame.size() / 3, frame.size() - 2}) {
    Data bad = frame;
    bad[at] ^= 0x10;
    CHECK(!Decode(bad, 65536, 65536, &ignored).ok());
  }
  Data checksum = frame;
  checksum.back() ^= 1;
  CHECK(std::string(Decode(checksum, 65536, 65536, &ignored).code) == "mismatch");
  CHECK(std::string(Decode(Joined({frame, Data(100, 0x41)}), 65536, 65536, &ignored).code) == "corrupt");

  OK(Decode(Frame(text, 27), 65536, 65536, &ignored));
  const Status wide = Decode(Frame(text, 28), 65536, 65536, &ignored);
  CHECK(std::string(wide.code) == "limit" && wide.message.find("128 MiB") != std::string::npos);
  std::puts("zstd_test: ok");
}
