// What inflate_test.cc needs beside the code it tests: files, generated members, a recorder run to its end, spans as a reader
// builds them.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../../native/inflate/recorder.h"
#include "../../native/inflate/span_decoder.h"
#include "../../native/inflate/zinfo_table.h"
#include "check.h"

using namespace ocifs;
using namespace ocifs::inflate;
using Data = std::vector<uint8_t>;

// An unlinked temporary file.
class TempFile {
 public:
  explicit TempFile(const Data& content = {}) {
    char name[] = "/tmp/ocifs-inflate-XXXXXX";
    fd = mkstemp(name);
    CHECK(fd >= 0);
    unlink(name);
    Set(content);
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { close(fd); }
  void Set(const Data& content) {
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(pwrite(fd, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  }
  Data Content() const {
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    Data d(static_cast<size_t>(st.st_size));
    CHECK(pread(fd, d.data(), d.size(), 0) == static_cast<ssize_t>(d.size()));
    return d;
  }
  int fd;
};

inline Data Load(const std::string& name) {
  const char* shared = std::getenv("OCIFS_SHARED");
  const std::string path = std::string(shared ? shared : "../shared") + "/fixtures/erofs-utils-1.9.3/" + name;
  FILE* f = std::fopen(path.c_str(), "rb");
  if (!f) {
    std::fprintf(stderr, "cannot open %s; set OCIFS_SHARED\n", path.c_str());
    std::exit(1);
  }
  Data d;
  uint8_t piece[65536];
  for (size_t n; (n = std::fread(piece, 1, sizeof piece, f)) > 0;) d.insert(d.end(), piece, piece + n);
  std::fclose(f);
  return d;
}

struct Index {
  Data zinfo;
  Recorded recorded;
  Data output;
  std::vector<uint64_t> span_starts;
};

inline Status Record(const Data& gz, uint64_t span, bool zlib, size_t in_piece, size_t out_piece, Index* index) {
  TempFile file;
  auto r = Recorder::Create({file.fd, span, 1 << 20, zlib});
  Data out(out_piece);
  size_t at = 0;
  for (bool full = false; at < gz.size() || full;) {
    const size_t n = std::min(in_piece, gz.size() - at);
    size_t consumed = 0, produced = 0;
    Status s = r->Step(gz.data() + at, n, out.data(), out.size(), &consumed, &produced);
    if (!s.ok()) return s;
    CHECK(consumed <= n && produced <= out.size());
    CHECK(n == 0 || consumed > 0 || produced > 0);
    index->output.insert(index->output.end(), out.data(), out.data() + produced);
    at += consumed;
    full = produced == out.size();
  }
  Status s = r->Finish(&index->recorded);
  index->span_starts = r->span_starts();
  index->zinfo = file.Content();
  return s;
}

struct Table {
  std::vector<double> in, out;
  std::vector<uint8_t> bits;
};

inline Table ReadTable(const Data& zinfo) {
  TempFile file(zinfo);
  const size_t n = (zinfo.size() - 12) / 32785;
  Table t{std::vector<double>(n), std::vector<double>(n), Data(n)};
  OK(ReadZinfoTable(file.fd, n, t.in.data(), t.out.data(), t.bits.data()));
  return t;
}

// Span `i` as a reader builds it. Span 0 starts at the header.
inline SpanInput SpanOf(const Table& t, const Data& zinfo, size_t i, int fd, uint64_t blob_size, uint64_t size) {
  SpanInput in;
  in.fd = fd;
  in.at_header = i == 0;
  in.bits = i == 0 ? 0 : t.bits[i];
  in.begin = i == 0 ? 0 : static_cast<uint64_t>(t.in[i]) - (in.bits ? 1 : 0);
  in.last = i + 1 == t.in.size();
  in.end = in.last ? blob_size : static_cast<uint64_t>(t.in[i + 1]);
  in.out_size = (in.last ? size : static_cast<uint64_t>(t.out[i + 1])) - static_cast<uint64_t>(t.out[i]);
  in.window = i == 0 ? nullptr : zinfo.data() + 12 + i * 32785 + 17;
  in.next_window = in.last ? nullptr : zinfo.data() + 12 + (i + 1) * 32785 + 17;
  return in;
}

inline Status Decode(bool zlib, const SpanInput& in, Data* out) {
  out->clear();
  const Sink sink = [&](const uint8_t* p, size_t n) {
    CHECK(n > 0 && n <= (1 << 20) && out->size() + n <= in.out_size);
    out->insert(out->end(), p, p + n);
    return Status::Ok();
  };
  Status s = zlib ? DecodeSpanZlib(in, sink) : DecodeSpan(in, sink);
  CHECK(!s.ok() || out->size() == in.out_size);
  CHECK(s.ok() || (s.message.size() > 0 && s.code[0] != 0));
  return s;
}

inline void CheckSpans(const Data& gz, const Data& zinfo, const Data& want) {
  TempFile blob(gz);
  const Table t = ReadTable(zinfo);
  for (size_t i = 0; i < t.in.size(); i++) {
    for (bool zlib : {false, true}) {
      Data got;
      OK(Decode(zlib, SpanOf(t, zinfo, i, blob.fd, gz.size(), want.size()), &got));
      CHECK(std::equal(got.begin(), got.end(), want.begin() + static_cast<ptrdiff_t>(t.out[i])));
    }
  }
}

inline void Append(Data* to, const Data& more) { to->insert(to->end(), more.begin(), more.end()); }

inline Data Random(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  Data d(n);
  for (auto& b : d) b = static_cast<uint8_t>(rng());
  return d;
}

// Compresses like text: words from a small set, with a number now and then.
inline Data Text(size_t n, uint32_t seed) {
  static const char* const words[] = {"layer ", "span ", "checkpoint ", "the ", "of ", "\n", "window ", "gzip "};
  std::mt19937 rng(seed);
  std::string s;
  while (s.size() < n) s += rng() % 5 ? words[rng() % 8] : std::to_string(rng());
  return Data(s.begin(), s.begin() + static_cast<ptrdiff_t>(n));
}

struct Member {
  Data data;
  int level = 6;
  int strategy = Z_DEFAULT_STRATEGY;
  int flush_every = 0;  // bytes between sync flushes
  bool fields = false;  // extra, name, comment, header CRC
  int flush = Z_SYNC_FLUSH;
};

inline Data Gzip(const Member& m) {
  z_stream z = {};
  CHECK(deflateInit2(&z, m.level, Z_DEFLATED, 31, 8, m.strategy) == Z_OK);
  Data extra = Random(3000, 7), name(200000, 'n'), comment = Text(500, 1);
  name.push_back(0);
  comment.push_back(0);
  gz_header head = {};
  head.extra = extra.data();
  head.extra_len = static_cast<uInt>(extra.size());
  head.name = name.data();
  head.comment = comment.data();
  head.hcrc = 1;
  if (m.fields) CHECK(deflateSetHeader(&z, &head) == Z_OK);
  Data out(m.data.size() * 2 + 400000 + (m.flush_every ? m.data.size() / static_cast<size_t>(m.flush_every) * 16 : 0));
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  size_t at = 0;
  while (m.flush_every && at < m.data.size()) {
    const size_t n = std::min<size_t>(static_cast<size_t>(m.flush_every), m.data.size() - at);
    z.next_in = const_cast<uint8_t*>(m.data.data() + at);
    z.avail_in = static_cast<uInt>(n);
    CHECK(deflate(&z, m.flush) == Z_OK);
    at += n;
  }
  z.next_in = const_cast<uint8_t*>(m.data.data() + at);
  z.avail_in = static_cast<uInt>(m.data.size() - at);
  CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}
