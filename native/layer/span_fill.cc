#include "span_fill.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "../base/sha256.h"
#include "../inflate/span_decoder.h"

namespace ocifs::layer {

namespace {
constexpr size_t kCopyBytes = 256 << 10;

Status ReadWindow(int fd, int64_t offset, std::vector<uint8_t>* out) {
  out->resize(inflate::kWindowBytes);
  size_t done = 0;
  while (done < out->size()) {
    ssize_t n = pread(fd, out->data() + done, out->size() - done, static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, "read zinfo");
    if (n == 0) return Status::Corrupt("zinfo: a checkpoint's window ends early");
    done += static_cast<size_t>(n);
  }
  return Status::Ok();
}

Status CopyTar(const FillInput& in, uint64_t size, const inflate::Sink& sink) {
  if (in.end < in.begin || in.end - in.begin < size) return Status::Corrupt("blob ends inside a span");
  std::vector<uint8_t> buf(std::min<uint64_t>(size, kCopyBytes));
  for (uint64_t at = 0; at < size;) {
    ssize_t n = pread(in.fd, buf.data(), std::min<uint64_t>(size - at, buf.size()), static_cast<off_t>(in.begin + at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, "read blob");
    if (n == 0) return Status::Corrupt("blob ends inside a span");
    if (Status s = sink(buf.data(), static_cast<size_t>(n)); !s.ok()) return s;
    at += static_cast<uint64_t>(n);
  }
  return Status::Ok();
}

uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

Status Produce(SpanStore& store, const FillInput& in, const inflate::Sink& sink) {
  const uint64_t size = store.span_size(in.span);
  if (!in.gzip) return CopyTar(in, size, sink);
  std::vector<uint8_t> window, next;
  inflate::SpanInput si;
  si.fd = in.fd;
  si.begin = in.begin;
  si.end = in.end;
  si.bits = in.bits;
  si.out_size = size;
  si.at_header = in.at_header;
  si.last = in.last;
  if (in.window_offset >= 0) {
    if (Status s = ReadWindow(in.zinfo_fd, in.window_offset, &window); !s.ok()) return s;
    si.window = window.data();
  }
  if (in.next_window_offset >= 0) {
    if (Status s = ReadWindow(in.zinfo_fd, in.next_window_offset, &next); !s.ok()) return s;
    si.next_window = next.data();
  }
  return inflate::DecodeSpan(si, sink);
}

// Writes the span to `target`, which BeginSpan gave; ends with a commit or an abort.
Status FillTo(SpanStore& store, const FillInput& in, Target target, FillTimes* times) {
  Sha256 sha;
  uint64_t at = 0;
  Status s = Produce(store, in, [&](const uint8_t* data, size_t size) {
    if (in.digest) {
      const uint64_t began = times ? NowNs() : 0;
      sha.Update(data, size);
      if (times) times->digest_ns += NowNs() - began;
    }
    const uint64_t offset = at;
    at += size;
    return in.discard ? Status::Ok() : store.WriteSpan(target, in.span, offset, data, size);
  });
  if (s.ok() && at != store.span_size(in.span))
    s = Status::Corrupt("span " + std::to_string(in.span) + ": " + std::to_string(at) + " bytes instead of " +
                        std::to_string(store.span_size(in.span)));
  if (s.ok() && in.digest && sha.Final() != *in.digest)
    s = Status::Mismatch("span " + std::to_string(in.span) + ": its bytes do not have the digest that the index recorded");
  if (times) times->filled_ns = NowNs();
  if (in.discard) return s;
  if (!s.ok()) {
    store.AbortSpan(target, in.span);
    return s;
  }
  return store.CommitSpan(target, in.span);
}
}  // namespace

Status FillSpan(SpanStore& store, const FillInput& in, std::string* degraded, FillTimes* times) {
  if (times) times->began_ns = NowNs();
  if (in.span >= store.span_count()) return Status::Usage("span number out of range");
  if (in.discard) return FillTo(store, in, Target::kMemory, times);
  Target target;
  if (Status s = store.BeginSpan(in.span, &target, in.only_memory); !s.ok()) return s;
  if (target == Target::kNone) {  // another process was faster; it woke nobody here
    store.Wake({in.span, in.span});
    return Status::Ok();
  }
  Status s = FillTo(store, in, target, times);
  if (target == Target::kData && (s.err == ENOSPC || s.err == EDQUOT || s.err == EROFS || s.err == EFBIG)) {
    *degraded = s.message;
    store.DisableDisk();
    if (s = store.BeginSpan(in.span, &target); s.ok() && target != Target::kNone) s = FillTo(store, in, target, times);
  }
  return s;
}

Status CheckSuspect(SpanStore& store, uint64_t span, const std::optional<std::array<uint8_t, 32>>& digest, bool* good) {
  if (span >= store.span_count()) return Status::Usage("span number out of range");
  *good = false;
  if (digest) {
    Sha256 sha;
    std::vector<uint8_t> buf(std::min<uint64_t>(store.span_size(span), kCopyBytes));
    for (uint64_t at = 0; at < store.span_size(span);) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(store.span_size(span) - at, buf.size()));
      if (Status s = store.ReadRaw(span, at, buf.data(), n); !s.ok()) {
        store.SettleSuspect(span, false);
        return Status::Ok();
      }
      sha.Update(buf.data(), n);
      at += n;
    }
    *good = sha.Final() == *digest;
  }
  store.SettleSuspect(span, *good);
  // Not when it was evicted meanwhile.
  *good = store.present(span);
  return Status::Ok();
}

}  // namespace ocifs::layer
