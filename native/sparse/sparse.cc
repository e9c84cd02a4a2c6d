#include "sparse.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace ocifs::sparse {

Status DataRanges(int fd, uint64_t begin, uint64_t end, std::vector<std::pair<uint64_t, uint64_t>>* out) {
  uint64_t at = begin;
  while (at < end) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole up to the end
    if (data < 0) return Status::Errno(errno, "find data in cache file");
    if (static_cast<uint64_t>(data) >= end) break;
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return Status::Errno(errno, "find hole in cache file");
    // A file that shrinks or is punched meanwhile could answer the same place again.
    if (hole <= data) break;
    out->emplace_back(static_cast<uint64_t>(data), std::min(end, static_cast<uint64_t>(hole)));
    at = static_cast<uint64_t>(hole);
  }
  return Status::Ok();
}

Status PunchHole(int fd, uint64_t begin, uint64_t end) {
  if (end <= begin) return Status::Ok();
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin), static_cast<off_t>(end - begin)) < 0)
    return Status::Errno(errno, "punch hole in cache file");
  return Status::Ok();
}

static int Lock(int fd, uint64_t begin, uint64_t end, short type) {
  struct flock l {};
  l.l_type = type;
  l.l_whence = SEEK_SET;
  l.l_start = static_cast<off_t>(begin);
  l.l_len = static_cast<off_t>(end - begin);
  return fcntl(fd, F_OFD_SETLK, &l);
}

Status TryLock(int fd, uint64_t begin, uint64_t end, bool exclusive, bool* got) {
  *got = false;
  // l_len 0 would mean "to infinity".
  if (end <= begin) return Status::Usage("lock: empty range");
  if (Lock(fd, begin, end, exclusive ? F_WRLCK : F_RDLCK) == 0)
    *got = true;
  else if (errno != EAGAIN && errno != EACCES)
    return Status::Errno(errno, "lock cache file");
  return Status::Ok();
}

Status Unlock(int fd, uint64_t begin, uint64_t end) {
  if (end <= begin) return Status::Usage("unlock: empty range");
  if (Lock(fd, begin, end, F_UNLCK) < 0) return Status::Errno(errno, "unlock cache file");
  return Status::Ok();
}

Status MemoryFile(uint64_t size, int* fd) {
  *fd = memfd_create("ocifs", MFD_CLOEXEC);
  if (*fd < 0) return Status::Errno(errno, "create memory file");
  if (ftruncate(*fd, static_cast<off_t>(size)) < 0) {
    const int e = errno;
    close(*fd);
    *fd = -1;
    return Status::Errno(e, "size memory file");
  }
  return Status::Ok();
}

}  // namespace ocifs::sparse
