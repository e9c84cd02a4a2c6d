// Lending `data` to the kernel. A mount may live longer than the process that made it, so neither a lock nor a lease can say that the
// file must stay as it is: an extended attribute of the file itself does, which holds the boot in which it was lent. It goes where the
// file goes, and means nothing after the machine has started again, as no mount has lived so long.
//
// Who punches or writes a span has the span's lock first and looks for the mark then; who lends sets the mark first and takes the locks of
// all spans then. So one of the two sees the other.
#include <sys/xattr.h>
#include <unistd.h>

#include "span_store_private.h"

namespace ocifs::layer {

namespace {
constexpr char kLentXattr[] = "user.ocifs.lent";
}

bool SpanStore::Marked(const char* xattr) const {
  if (data_fd_ < 0) return false;
  std::array<uint8_t, 16> boot{};
  const ssize_t n = fgetxattr(data_fd_, xattr, boot.data(), boot.size());
  if (n < 0) return errno != ENODATA && errno != EOPNOTSUPP;  // what cannot be read may be there
  return static_cast<size_t>(n) != boot.size() || boot == boot_id_;
}

bool SpanStore::Lent() const { return Marked(kLentXattr); }

Status SpanStore::Lend(int* fd) {
  *fd = -1;
  if (data_fd_ < 0 || spans_fd_ < 0) return Status::Ok();
  std::lock_guard<std::mutex> g(mutex_);
  if (!writing_.empty() || evicting_) return Status::Ok();
  // Two that lend at once: the one that cannot must not take the other's mark away.
  HeaderLock lock(spans_fd_);
  if (!lock.held()) return Status::Errno(errno, "lock span states");
  const bool was = Lent();
  if (!was && fsetxattr(data_fd_, kLentXattr, boot_id_.data(), boot_id_.size(), 0) < 0) return Status::Ok();
  const bool locked = SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, SpanLockByte(0), span_count()) == 0;
  Status s;
  if (locked && WholeInData()) {
    const std::string path = "/proc/self/fd/" + std::to_string(data_fd_);
    *fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (*fd < 0) s = Status::Errno(errno, "open layer data to lend it");
  }
  if (*fd < 0 && !was && fremovexattr(data_fd_, kLentXattr) < 0 && s.ok()) s = Status::Errno(errno, "unmark layer data");
  if (locked) SetLock(spans_fd_, F_OFD_SETLK, F_UNLCK, SpanLockByte(0), span_count());
  return s;
}

// What the states say, and what the file itself says: a hole would be read as zeros.
bool SpanStore::WholeInData() const {
  if (data_count() != span_count()) return false;
  return span_count() == 0 || lseek(data_fd_, 0, SEEK_HOLE) >= static_cast<off_t>(size_bytes());
}

}  // namespace ocifs::layer
