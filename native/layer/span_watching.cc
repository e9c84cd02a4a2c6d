// `data` under a kernel file system while it is still being filled: what the kernel reads raises events first (native/fanotify), and
// who answers them needs the bytes in the file, not in memory. What was there once must not become a hole again: the kernel may
// have been told that it need not ask. So the file is marked, as a lent one is (span_lending.cc), by an attribute of its own.
//
// Who punches has the span's lock first and looks for the mark then; who marks looks at all locks afterwards.
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "span_store_private.h"

namespace ocifs::layer {

namespace {
constexpr char kWatchedXattr[] = "user.ocifs.watched";
constexpr size_t kCopyBytes = 256 << 10;
// A span is written in milliseconds. Only a process that is stopped takes longer.
constexpr std::chrono::seconds kWatchDeadline{10};
constexpr std::chrono::milliseconds kLookAgain{1};

bool Locked(int fd, off_t byte, uint64_t count) {
  struct flock l {};
  l.l_type = F_WRLCK;
  l.l_whence = SEEK_SET;
  l.l_start = byte;
  l.l_len = static_cast<off_t>(count);
  return fcntl(fd, F_OFD_GETLK, &l) < 0 || l.l_type != F_UNLCK;
}

Status CopyRange(int from, int to, uint64_t begin, uint64_t end) {
  std::vector<uint8_t> buffer(std::min<uint64_t>(end - begin, kCopyBytes));
  for (uint64_t at = begin; at < end;) {
    const ssize_t n = pread(from, buffer.data(), std::min<uint64_t>(buffer.size(), end - at), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Status::Errno(n < 0 ? errno : EIO, "read a span from memory");
    for (ssize_t done = 0; done < n;) {
      const ssize_t m = pwrite(to, buffer.data() + done, static_cast<size_t>(n - done), static_cast<off_t>(at) + done);
      if (m < 0 && errno == EINTR) continue;
      if (m < 0) return Status::Errno(errno, "write layer data");
      done += m;
    }
    at += static_cast<uint64_t>(n);
  }
  return Status::Ok();
}
}  // namespace

bool SpanStore::Watched() const { return Marked(kWatchedXattr); }

Status SpanStore::Watch(int* fd) {
  *fd = -1;
  if (data_fd_ < 0 || spans_fd_ < 0) return Status::Unsupported("the layer has no files in a cache on disk");
  if (fsetxattr(data_fd_, kWatchedXattr, boot_id_.data(), boot_id_.size(), 0) < 0)
    return {errno, errno == EOPNOTSUPP ? "unsupported" : "io", std::string("mark layer data as watched: ") + std::strerror(errno)};
  // A description of its own, to which the locks of this process are those of somebody else.
  const std::string spans = "/proc/self/fd/" + std::to_string(spans_fd_);
  const int looking = open(spans.c_str(), O_RDWR | O_CLOEXEC);
  if (looking < 0) return Status::Errno(errno, "open span states");
  Status s;
  const auto deadline = std::chrono::steady_clock::now() + kWatchDeadline;
  // Not all at once but each at some time: there may be always somebody who writes somewhere.
  if (Locked(looking, SpanLockByte(0), span_count()))
    for (uint64_t i = 0; i < span_count() && s.ok(); i++)
      while (s.ok() && Locked(looking, SpanLockByte(i), 1)) {
        if (std::chrono::steady_clock::now() > deadline)
          s = Status::Errno(EBUSY, "another process holds span " + std::to_string(i) + " of the layer");
        std::this_thread::sleep_for(kLookAgain);
      }
  close(looking);
  if (!s.ok()) return s;
  const std::string data = "/proc/self/fd/" + std::to_string(data_fd_);
  *fd = open(data.c_str(), O_RDONLY | O_CLOEXEC);
  return *fd < 0 ? Status::Errno(errno, "open layer data to watch it") : Status::Ok();
}

bool SpanStore::InData(SpanRange range) const {
  if (data_fd_ < 0) return false;
  for (uint64_t i = range.first; i <= range.last; i++)
    if (state(i) != kPresent) return false;
  return true;
}

bool SpanStore::DataIdentity(uint64_t* device, uint64_t* inode) const {
  struct stat st;
  if (data_fd_ < 0 || fstat(data_fd_, &st) < 0) return false;
  *device = st.st_dev;
  *inode = st.st_ino;
  return true;
}

Status SpanStore::Promote(SpanRange range, Promotion* outcome) {
  *outcome = Promotion::kInData;
  if (data_fd_ < 0) return Status::Unsupported("the layer has no file in a cache on disk");
  for (uint64_t i = range.first; i <= range.last; i++) {
    std::lock_guard<std::mutex> g(mutex_);
    if (Status s = PromoteSpan(i, outcome); !s.ok() || *outcome != Promotion::kInData) return s;
  }
  return Status::Ok();
}

Status SpanStore::PromoteSpan(uint64_t span, Promotion* outcome) {
  if (state(span) == kPresent) return Status::Ok();
  if (memory_state_[span].load(std::memory_order_acquire) != kPresent) {
    *outcome = Promotion::kAbsent;
    return Status::Ok();
  }
  if (!TryLockSpan(span)) {
    *outcome = Promotion::kBusy;
    return Status::Ok();
  }
  Status s;
  if (Lent()) s = Status::Errno(EROFS, "write layer data that was lent");
  if (s.ok() && state(span) != kPresent) s = CopyRange(memory_fd_, data_fd_, out_[span], out_[span + 1]);
  if (s.ok()) StateByte(span).store(kPresent, std::memory_order_release);
  UnlockSpan(span);
  return s;
}

}  // namespace ocifs::layer
