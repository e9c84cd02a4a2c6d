// A `spans` file and a `data` file of any content. Input:
//   u8 flags: 1 the file has exactly the size that the table needs, 2 another boot, 4 header fields that fit the table
//   u16 size of the `data` file in units of 100 bytes
//   u8 how many bytes of header follow, the header; then a state byte for each span, then the operations: u8 what, u8 span, u8 more.
// Reads never tell that bytes are there which are not: `data` is full of one byte as far as it goes.
#include "../../native/layer/span_store.h"

#include <fcntl.h>

#include "../../native/base/sha256.h"
#include "../../native/layer/span_fill.h"
#include "fuzz.h"

using namespace ocifs;
using namespace ocifs::layer;
using fuzz::Bytes;

namespace {

constexpr uint64_t kSpans = 24, kSpanBytes = 1000, kLayerBytes = kSpans * kSpanBytes;
constexpr uint8_t kFill = 0x5a;
constexpr size_t kOperationsMax = 64;

class Files {
 public:
  Status Open(uint8_t boot, std::shared_ptr<SpanStore>* out) const {
    SpanStore::Options o;
    o.data_fd = Reopen(data);
    o.spans_fd = Reopen(spans);
    for (uint64_t i = 0; i <= kSpans; i++) o.out_starts.push_back(i * kSpanBytes);
    o.partition.fill(9);
    o.boot_id.fill(boot);
    o.memory_bytes = 3 * kSpanBytes;
    return SpanStore::Open(std::move(o), out);
  }
  fuzz::MemoryFile data, spans;

 private:
  // A description of its own: locks belong to it.
  static int Reopen(const fuzz::MemoryFile& file) {
    const int fd = open(("/proc/self/fd/" + std::to_string(file.fd())).c_str(), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
  }
};

// The header that the store itself would write.
Bytes RightHeader() {
  static const Bytes header = [] {
    Files files;
    std::shared_ptr<SpanStore> store;
    files.data.Resize(kLayerBytes);
    CHECK(files.Open(1, &store).ok());
    Bytes content = files.spans.Content();
    content.resize(96);
    return content;
  }();
  return header;
}

struct Waits : Waiter {
  void OnReady() override { calls++; }
  void OnError(int) override { calls++; }
  int calls = 0;
};

class Play {
 public:
  explicit Play(SpanStore& store) : store_(store) {}

  void Do(uint8_t what, uint64_t span, uint64_t more) {
    switch (what % 8) {
      case 0: return Read(span * kSpanBytes + more, more * 50);
      case 1: return Write(span);
      case 2: return Check(span, more % 2 == 0);
      case 3: return fuzz::CheckStatus(store_.Evict({span, std::min(kSpans - 1, span + more % 4)}));
      case 4: return Park({span, std::min(kSpans - 1, span + more % 4)});
      case 5: return store_.Fail({span, span + more}, EIO);
      case 6: return (void)store_.Wake({span, span + more});
      default: return store_.DisableDisk();
    }
  }

  void Read(uint64_t offset, size_t size) {
    Bytes out(size, 1);
    bool ready = false;
    SpanRange missing;
    const Status s = store_.Read(offset, size, out.data(), &ready, &missing);
    fuzz::CheckStatus(s);
    if (!s.ok()) {
      CHECK(!ready && offset + size > kLayerBytes);
    } else if (!ready) {
      CHECK(missing.first <= missing.last && missing.last < kSpans);
      bool all = true;
      for (uint64_t i = missing.first; i <= missing.last; i++) all = all && store_.present(i);
      CHECK(!all);
    } else {
      // `data` is full of one byte, and so is everything that is written here.
      CHECK(std::all_of(out.begin(), out.end(), [](uint8_t b) { return b == kFill; }));
    }
  }

 private:
  void Write(uint64_t span) {
    Target target;
    Status s = store_.BeginSpan(span, &target);
    fuzz::CheckStatus(s);
    if (!s.ok() || target == Target::kNone) return;
    const Bytes bytes(kSpanBytes, kFill);
    CHECK(store_.WriteSpan(target, span, 1, bytes.data(), bytes.size()).err == EIO);  // one byte too many
    CHECK(store_.WriteSpan(target, span, 0, bytes.data(), bytes.size()).ok());
    CHECK(store_.CommitSpan(target, span).ok() && store_.present(span));
  }

  void Check(uint64_t span, bool known) {
    std::optional<std::array<uint8_t, 32>> digest;
    if (known) {
      Sha256 sha;
      const Bytes bytes(kSpanBytes, kFill);
      sha.Update(bytes.data(), bytes.size());
      digest = sha.Final();
    }
    bool good = false;
    fuzz::CheckStatus(CheckSuspect(store_, span, digest, &good));
    CHECK(good == store_.present(span));
  }

  void Park(SpanRange range) {
    auto waiter = std::make_shared<Waits>();
    if (store_.Park(range, waiter)) store_.Unpark(waiter.get());
    CHECK(waiter->calls == 0);
  }

  SpanStore& store_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const auto flags = input.Take<uint8_t>();
  const uint64_t data_bytes = std::min<uint64_t>(input.Take<uint16_t>() * uint64_t{100}, 2 * kLayerBytes);
  Bytes header = input.TakeBytes(input.Take<uint8_t>());
  const Bytes states = input.TakeBytes(kSpans);
  if (flags & 4) {
    Bytes right = RightHeader();
    // Only flags, boot id, generation and what has no meaning stay the input's.
    header.resize(std::max(header.size(), right.size()));
    std::copy_n(right.begin(), 32, header.begin());
    std::copy_n(right.begin() + 64, 32, header.begin() + 64);
  }

  Files files;
  files.data.Set(Bytes(data_bytes, kFill));
  files.spans.Put(0, header.data(), header.size());
  files.spans.Put(kSpansHeaderBytes, states.data(), states.size());
  if (flags & 1) files.spans.Resize(kSpansHeaderBytes + kSpans);
  std::shared_ptr<SpanStore> store;
  const Status s = files.Open(flags & 2 ? 2 : 1, &store);
  fuzz::CheckStatus(s);
  if (!s.ok()) return 0;

  uint64_t present = 0, suspect = 0;
  for (uint64_t i = 0; i < kSpans; i++) {
    present += store->present(i);
    suspect += store->state(i) == kSuspect;
  }
  // What is beyond the end of `data` is not there.
  CHECK(data_bytes >= kLayerBytes || (present == 0 && suspect == 0));
  CHECK(store->present_count() == present && store->present_bytes() == present * kSpanBytes);
  Play play(*store);
  for (uint64_t i = 0; i < kSpans; i++) play.Read(i * kSpanBytes, kSpanBytes);
  for (size_t n = 0; n < kOperationsMax && !input.empty(); n++) {
    const auto what = input.Take<uint8_t>(), span = input.Take<uint8_t>(), more = input.Take<uint8_t>();
    play.Do(what, span % kSpans, more);
  }
  fuzz::CheckStatus(store->FlushClean());
  store.reset();
  // What one store leaves behind the next one takes, after a reboot too.
  CHECK(files.Open(3, &store).ok());
  return 0;
}
