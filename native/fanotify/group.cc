#include "group.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace ocifs::fanotify {

namespace {
// Since the kernel that has FAN_PRE_ACCESS. Who reads through EROFS sees EIO for any denial.
constexpr uint32_t kDenyWithEio = FAN_DENY | (uint32_t{EIO} << 24);

Status Mark(int group, unsigned how, uint64_t mask, int fd, const char* what) {
  if (fanotify_mark(group, how, mask, fd, nullptr) == 0) return Status::Ok();
  const bool lacking = errno == EINVAL || errno == EOPNOTSUPP || errno == ENODEV || errno == EXDEV;
  return {errno, lacking ? "unsupported" : errno == ENOSPC ? "limit" : "io", std::string(what) + ": " + std::strerror(errno)};
}
}  // namespace

Status CreateGroup(int* fd) {
  // A queue with an end lets through what does not fit into it.
  *fd = fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS,
                      O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NOATIME);
  if (*fd >= 0) return Status::Ok();
  const bool lacking = errno == EINVAL || errno == ENOSYS || errno == EPERM;
  return {errno, lacking ? "unsupported" : errno == EMFILE ? "limit" : "io", std::string("fanotify_init: ") + std::strerror(errno)};
}

Status MarkData(int group, int fd) {
  return Mark(group, FAN_MARK_ADD, FAN_PRE_ACCESS, fd, "the file system of the cache raises no events before files are read");
}

Status UnmarkData(int group, int fd) { return Mark(group, FAN_MARK_REMOVE, FAN_PRE_ACCESS, fd, "remove a fanotify mark"); }

Status MarkRelease(int group, int fd) { return Mark(group, FAN_MARK_ADD, FAN_CLOSE_NOWRITE, fd, "fanotify_mark of a tarindex"); }

Status Respond(int group, int event_fd, bool allow) {
  const fanotify_response response{.fd = event_fd, .response = allow ? uint32_t{FAN_ALLOW} : kDenyWithEio};
  ssize_t n;
  do n = write(group, &response, sizeof response);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno != ENOENT) return Status::Errno(errno, "answer a fanotify event");
  return Status::Ok();
}

}  // namespace ocifs::fanotify
