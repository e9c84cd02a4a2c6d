#include "reply.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "protocol.h"

namespace ocifs::fuse {

void ReplyError(Counters& counters, int fd, uint64_t unique, int err) {
  fuse_out_header h{};
  h.len = sizeof h;
  h.error = -err;
  h.unique = unique;
  // Expected answers of a file system are not errors of ours.
  if (err == EIO) counters.errors.fetch_add(1, std::memory_order_relaxed);
  // ENOENT: the request was interrupted and given up; ENODEV: unmounted. Neither leaves anything to do.
  (void)!write(fd, &h, sizeof h);
}

void Reply(Counters& counters, int fd, uint64_t unique, const void* data, size_t size) {
  fuse_out_header h{};
  h.len = static_cast<uint32_t>(sizeof h + size);
  h.unique = unique;
  iovec v[2] = {{&h, sizeof h}, {const_cast<void*>(data), size}};
  if (writev(fd, v, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV) ReplyError(counters, fd, unique, EIO);
}

}  // namespace ocifs::fuse
