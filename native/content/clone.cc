#include "clone.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace ocifs::content {

namespace {
// Blocks of all file systems that can share extents are at most this; smaller ones only lose the chance.
constexpr uint64_t kCloneBlock = 4096;
constexpr size_t kBufferBytes = 128 << 10;
// What is no larger than this costs less to copy through memory than to ask the kernel how.
constexpr uint64_t kSmallBytes = 16 << 10;

// Reasons why two files cannot share extents, or the kernel cannot copy between them; anything else is a failure.
bool CannotShare(int e) {
  return e == EOPNOTSUPP || e == ENOTTY || e == EXDEV || e == EINVAL || e == ENOSYS || e == EPERM || e == ETXTBSY;
}

Status CopyThroughMemory(int from, uint64_t offset, int to, uint64_t to_offset, uint64_t size) {
  std::vector<char> buffer(std::min<uint64_t>(size, kBufferBytes));
  while (size > 0) {
    const ssize_t n = pread(from, buffer.data(), std::min<uint64_t>(size, buffer.size()), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, "read file content");
    if (n == 0) return Status::Mismatch("file content: the source ends before its size; it was changed meanwhile");
    for (ssize_t done = 0; done < n;) {
      const ssize_t w = pwrite(to, buffer.data() + done, static_cast<size_t>(n - done), static_cast<off_t>(to_offset) + done);
      if (w < 0 && errno == EINTR) continue;
      if (w < 0) return Status::Errno(errno, "write file content");
      done += w;
    }
    offset += static_cast<uint64_t>(n);
    to_offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  return Status::Ok();
}
}  // namespace

void Fd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

Status OpenBeneath(int directory, const std::string& path, int flags, Fd* out) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  long fd;
  // EAGAIN: a rename somewhere on the way while the kernel looked; RESOLVE_BENEATH then wants another try.
  int tries = 0;
  do fd = syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
  while (fd < 0 && (errno == EINTR || (errno == EAGAIN && ++tries < 64)));
  if (fd < 0) return Status::Errno(errno, "open \"" + path + "\" beneath its directory");
  out->Reset(static_cast<int>(fd));
  return Status::Ok();
}

Status CheckSource(int fd, uint64_t size) {
  struct stat st;
  if (fstat(fd, &st) < 0) return Status::Errno(errno, "stat file content");
  if (!S_ISREG(st.st_mode)) return Status::Mismatch("file content: the source is no regular file");
  if (static_cast<uint64_t>(st.st_size) != size)
    return Status::Mismatch("file content: the source has " + std::to_string(st.st_size) + " bytes, want " + std::to_string(size));
  return Status::Ok();
}

Status OpenSource(int directory, const std::string& name, uint64_t size, Fd* out) {
  Status s = OpenBeneath(directory, name, O_RDONLY | O_NONBLOCK, out);
  return s.ok() ? CheckSource(out->get(), size) : s;
}

Status CloneFile(int from, uint64_t size, int to, Counts* counts) {
  bool cloned = size > 0 && ioctl(to, FICLONE, from) == 0;
  if (!cloned && size > 0) {
    if (!CannotShare(errno)) return Status::Errno(errno, "clone file content");
    Status s = CopyRange(from, 0, to, 0, size, &cloned);
    if (!s.ok()) return s;
  }
  ++(cloned ? counts->cloned : counts->copied);
  return CheckSource(to, size);
}

Status CopyRange(int from, uint64_t offset, int to, uint64_t to_offset, uint64_t size, bool* cloned) {
  *cloned = false;
  if (size == 0) return Status::Ok();
  const uint64_t whole = size / kCloneBlock * kCloneBlock;
  if (offset % kCloneBlock == 0 && to_offset % kCloneBlock == 0 && whole > 0) {
    file_clone_range range{};
    range.src_fd = from;
    range.src_offset = offset;
    range.src_length = whole;
    range.dest_offset = to_offset;
    if (ioctl(to, FICLONERANGE, &range) == 0) {
      *cloned = true;
      return CopyThroughMemory(from, offset + whole, to, to_offset + whole, size - whole);
    }
    if (!CannotShare(errno)) return Status::Errno(errno, "clone part of a file");
  }
  while (size > kSmallBytes) {
    off_t in = static_cast<off_t>(offset), out = static_cast<off_t>(to_offset);
    const ssize_t n = copy_file_range(from, &in, to, &out, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && !CannotShare(errno)) return Status::Errno(errno, "copy file content");
    // 0 may be the end of the source or a file system that knows no better: read(2) tells them apart.
    if (n <= 0) break;
    offset += static_cast<uint64_t>(n);
    to_offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  return CopyThroughMemory(from, offset, to, to_offset, size);
}

}  // namespace ocifs::content
