// The inflate core without Node: fixtures of other tools byte for byte, round trips over generated members, damage of every kind.
// Built and run by scripts/test-native under AddressSanitizer.
#include "../../native/base/sha256.h"
#include "inflate_support.h"

static void TestFixtures() {
  const Data gz = Load("layer.tar.gz"), multi = Load("multi-member.tar.gz"), zinfo = Load("layer.zinfo");
  const Data soci = Load("multi-member.soci.zinfo"), erofs = Load("multi-member.erofs.zinfo"), v1 = Load("layer.v1.zinfo");
  Data tar;
  for (bool zlib : {true, false}) {
    for (size_t piece : {size_t{65536}, size_t{7919}, gz.size()}) {
      Index a, b;
      OK(Record(gz, 4 << 20, zlib, piece, piece + 1, &a));
      CHECK(a.zinfo == zinfo);
      CHECK(a.recorded.checkpoint_count == 3 && a.recorded.compressed_size == gz.size() && a.recorded.trailing_bytes == 0);
      OK(Record(multi, 4 << 20, zlib, piece, piece + 1, &b));
      CHECK(b.zinfo == soci);
      CHECK(a.output == b.output && a.output.size() == 11786240 && a.recorded.uncompressed_size == 11786240);
      tar = a.output;
    }
  }
  CheckSpans(gz, zinfo, tar);
  CheckSpans(multi, soci, tar);
  CheckSpans(multi, erofs, tar);
  Data from_v1 = v1;  // v1 is v2 without the first record
  from_v1.insert(from_v1.begin() + 12, 32785, 0);
  CheckSpans(gz, from_v1, tar);
}

// Records with both engines, in odd pieces; both must agree; every span must decode.
static void RoundTrip(const Data& gz, const Data& want, uint64_t trailing = 0) {
  for (uint64_t span : {32 << 10, 1 << 20}) {
    Index a, b;
    OK(Record(gz, span, true, 65536, 65536, &a));
    OK(Record(gz, span, false, 65536, 65536, &b));
    CHECK(a.output == want && b.output == want);
    CHECK(a.zinfo == b.zinfo);
    CHECK(a.span_starts == b.span_starts);
    CHECK(a.recorded.trailing_bytes == trailing && b.recorded.trailing_bytes == trailing);
    if (gz.size() < (2 << 20)) {
      Index c;
      OK(Record(gz, span, false, 1009, 4093, &c));
      CHECK(c.zinfo == b.zinfo && c.output == want);
    }
    const Table t = ReadTable(a.zinfo);
    CHECK(t.in.size() == a.recorded.checkpoint_count && t.in.size() == a.span_starts.size());
    for (size_t i = 0; i < t.in.size(); i++) CHECK(static_cast<uint64_t>(t.out[i]) == a.span_starts[i]);
    CheckSpans(gz, a.zinfo, want);
  }
}

static void TestRoundTrips() {
  const Data text = Text(3 << 20, 1), random = Random(1 << 20, 2), zeros(3 << 20, 0);
  Data mixed;
  for (uint32_t i = 0; i < 12; i++) {
    Append(&mixed, Text(100000 + i * 7777, i));
    Append(&mixed, Random(60000 + i * 3333, i));
    Append(&mixed, Data(90000, 0));
  }
  const std::vector<Member> members = {
      {text}, {random}, {zeros}, {mixed}, {mixed, 1}, {mixed, 9}, {text, 0}, {text, 6, Z_FIXED}, {mixed, 6, Z_HUFFMAN_ONLY},
      {mixed, 6, Z_RLE}, {{}}, {{'a'}}, {Text(1000, 3), 6, 0, 0, true}, {mixed, 6, 0, 1000}, {Text(300000, 9), 6, 0, 37},
      {Text(400000, 5), 6, 0, 100, false, Z_PARTIAL_FLUSH}, {Text(300000, 5), 6, 0, 3, false, Z_PARTIAL_FLUSH},
      {Text(200000, 5), 6, Z_FIXED, 1, false, Z_BLOCK}};
  Data all, all_plain;
  for (const Member& m : members) {
    Data gz = Gzip(m);
    RoundTrip(gz, m.data);
    Append(&all, gz);
    Append(&all_plain, m.data);
    gz.insert(gz.end(), 1500, 0);
    if (m.data.size() < 2000) RoundTrip(gz, m.data);
    gz.push_back('x');
    gz.push_back(0);
    if (m.data.size() < 2000) RoundTrip(gz, m.data, 2);
  }
  RoundTrip(all, all_plain);
  // Many small members: every place where a field may straddle two pieces of input.
  Data small, small_plain;
  for (uint32_t i = 0; i < 3000; i++) {
    const Member m{Text(i % 700, i), 6, i % 3 ? 0 : Z_FIXED, 0, false};
    Append(&small, Gzip(m));
    Append(&small_plain, m.data);
  }
  RoundTrip(small, small_plain);
}

// Blocks of one or two bytes around the place where a checkpoint is due: the zinfo must be that of zlib whatever the phase.
static void TestTinyBlocks() {
  for (int lead = 0; lead < 40; lead++) {
    Data plain = Random(static_cast<size_t>((32 << 10) - 20 + lead), static_cast<uint32_t>(lead));
    Append(&plain, Text(3000, 4));
    z_stream z = {};
    CHECK(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, lead % 2 ? Z_FIXED : Z_DEFAULT_STRATEGY) == Z_OK);
    Data out(plain.size() * 12);
    z.next_out = out.data();
    z.avail_out = static_cast<uInt>(out.size());
    for (size_t i = 0; i < plain.size();) {
      const size_t n = i < (32 << 10) - 60 ? (32 << 10) - 60 : 1;
      z.next_in = plain.data() + i;
      z.avail_in = static_cast<uInt>(std::min(n, plain.size() - i));
      i += z.avail_in;
      CHECK(deflate(&z, lead % 3 ? Z_PARTIAL_FLUSH : Z_BLOCK) == Z_OK);
    }
    CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
    out.resize(z.total_out);
    deflateEnd(&z);
    RoundTrip(out, plain);
  }
}

// Damaged input gives right bytes or an error; wrong bytes never pass a span digest unnoticed, by definition of the digest,
// so what is checked here is that nothing crashes, hangs or writes past its bounds, and that whole files are caught by CRC.
static void TestDamage() {
  Data plain = Text(90000, 11);
  Append(&plain, Random(4000, 12));
  Data gz = Gzip({Data(plain.begin(), plain.begin() + 70000), 6, 0, 5000});
  Append(&gz, Gzip({Data(plain.begin() + 70000, plain.end())}));
  Index index;
  OK(Record(gz, 32 << 10, true, 65536, 65536, &index));
  const Table t = ReadTable(index.zinfo);
  CHECK(t.in.size() >= 3);
  TempFile blob(gz);
  size_t wrong = 0, caught = 0;
  Data got;
  // Not every byte under a sanitizer: the fuzzer goes on where this ends. 3 and 8 share no factor, so each bit has its turn.
  for (size_t i = 0; i < gz.size(); i += 3) {
    Data bad = gz;
    bad[i] ^= static_cast<uint8_t>(1 << (i % 8));
    CHECK(pwrite(blob.fd, &bad[i], 1, static_cast<off_t>(i)) == 1);
    for (size_t k = 0; k < t.in.size(); k++) {
      const SpanInput in = SpanOf(t, index.zinfo, k, blob.fd, gz.size(), plain.size());
      if (i < in.begin || i >= in.end) continue;
      for (bool zlib : {false, true}) {
        if (!Decode(zlib, in, &got).ok()) {
          caught++;
        } else if (!std::equal(got.begin(), got.end(), plain.begin() + static_cast<ptrdiff_t>(t.out[k]))) {
          wrong++;  // in front of what the next window covers
          const size_t covered = in.last ? 0 : std::min(got.size(), kWindowBytes);
          CHECK(std::equal(got.end() - static_cast<ptrdiff_t>(covered), got.end(),
                           plain.begin() + static_cast<ptrdiff_t>(t.out[k] + got.size() - covered)));
        }
      }
    }
    if (i % 96 == 0) {
      for (bool zlib : {false, true}) {
        Index again;
        const Status s = Record(bad, 32 << 10, zlib, 65536, 65536, &again);
        CHECK(!s.ok() || again.output == plain || again.recorded.trailing_bytes > 0);
      }
    }
    CHECK(pwrite(blob.fd, &gz[i], 1, static_cast<off_t>(i)) == 1);
  }
  std::printf("flipped bits: %zu caught, %zu spans left to their digest\n", caught, wrong);
  CHECK(caught > wrong);
  // Truncation at lengths from one byte to all but one: the last span must notice.
  const SpanInput last = SpanOf(t, index.zinfo, t.in.size() - 1, blob.fd, gz.size(), plain.size());
  for (uint64_t end = last.begin; end < gz.size(); end += end + 64 < gz.size() ? 5 : 1) {
    SpanInput in = last;
    in.end = end;
    for (bool zlib : {false, true}) CHECK(!Decode(zlib, in, &got).ok());
    if (end % 40 == last.begin % 40) {
      Index again;
      CHECK(!Record(Data(gz.begin(), gz.begin() + static_cast<ptrdiff_t>(end)), 32 << 10, false, 999, 65536, &again).ok());
    }
  }
  CHECK(ftruncate(blob.fd, static_cast<off_t>(gz.size() - 1)) == 0);  // the file is shorter than the span says
  for (bool zlib : {false, true}) CHECK(!Decode(zlib, last, &got).ok());
  blob.Set(gz);
  for (int64_t delta : {-1, 1, -100, 100, 1000000}) {  // more or fewer bytes than there are
    SpanInput in = last;
    in.out_size += static_cast<uint64_t>(delta);
    for (bool zlib : {false, true}) CHECK(!Decode(zlib, in, &got).ok());
  }
  // Bytes all over a window, each bit of one at some place: the span before it must notice.
  for (size_t i = 0; i < kWindowBytes; i += i < 64 || i > kWindowBytes - 64 ? 1 : 13) {
    SpanInput before = SpanOf(t, index.zinfo, 0, blob.fd, gz.size(), plain.size());
    Data next(before.next_window, before.next_window + kWindowBytes);
    next[i] ^= static_cast<uint8_t>(1 << (i % 8));
    before.next_window = next.data();
    CHECK(std::string(Decode(i % 4 == 0, before, &got).code) == "mismatch");
  }
  // The wrong window: caught through the next window or by the last member's end.
  SpanInput in = SpanOf(t, index.zinfo, 1, blob.fd, gz.size(), plain.size());
  Data window(in.window, in.window + kWindowBytes);
  for (auto& b : window) b ^= 0x55;
  in.window = window.data();
  for (bool zlib : {false, true}) CHECK(std::string(Decode(zlib, in, &got).code) == "mismatch");
}

static void TestGarbage() {
  Data got;
  TempFile blob;
  std::mt19937 rng(99);
  for (uint32_t i = 0; i < 1200; i++) {
    Data d = Random(1 + rng() % 3000, i);
    if (i % 3 == 0) d[0] = static_cast<uint8_t>((d[0] & ~7) | 4);  // a dynamic block
    Data window = Random(kWindowBytes, i + 1);
    blob.Set(d);
    SpanInput in;
    in.fd = blob.fd;
    in.end = d.size();
    in.bits = static_cast<uint8_t>(rng() % 8);
    in.window = i % 2 ? window.data() : nullptr;
    in.out_size = rng() % 500000;
    in.last = rng() % 2;
    for (bool zlib : {false, true}) (void)Decode(zlib, in, &got);
    Data gz = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3};
    Append(&gz, d);
    for (bool zlib : {false, true}) {
      Index index;
      CHECK(!Record(gz, 32 << 10, zlib, 100, 70000, &index).ok());
    }
  }
}

static void TestSinkFailure() {
  TempFile blob(Gzip({Text(2 << 20, 1)}));
  SpanInput in;
  in.fd = blob.fd;
  in.at_header = true;
  in.end = blob.Content().size();
  in.out_size = 2 << 20;
  int calls = 0;
  const Sink sink = [&](const uint8_t*, size_t) { return ++calls == 2 ? Status::Errno(ENOSPC, "sink") : Status::Ok(); };
  const Status s = DecodeSpan(in, sink);
  CHECK(s.err == ENOSPC && std::string(s.code) == "no-space" && calls == 2);
}

static void TestLimits() {
  TempFile file;
  const Data gz = Gzip({Random(1 << 20, 1)});
  auto r = Recorder::Create({file.fd, 32 << 10, 4, false});
  Data out(2 << 20);
  size_t consumed, produced;
  const Status s = r->Step(gz.data(), gz.size(), out.data(), out.size(), &consumed, &produced);
  CHECK(std::string(s.code) == "limit");
  CHECK(!r->Step(gz.data(), 1, out.data(), out.size(), &consumed, &produced).ok());
}

int main() {
  TestFixtures();
  TestRoundTrips();
  TestTinyBlocks();
  TestSinkFailure();
  TestLimits();
  TestDamage();
  TestGarbage();
  std::puts("inflate_test: ok");
}
