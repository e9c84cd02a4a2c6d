// A process that fills holes of a file must not raise the events that ask for them to be filled. Descriptors that come with fanotify
// events are the ones that raise none (FMODE_NONOTIFY). So the file is watched for being opened, and opened.
#include "quiet_file.h"

#include <fcntl.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace ocifs::layer {

Status OpenQuietly(int fd, int* quiet) {
  *quiet = -1;
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int group = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, O_RDWR | O_LARGEFILE | O_CLOEXEC);
  if (group < 0) return Status::Errno(errno, "open layer data without events: fanotify_init");
  Status s;
  int opened = -1;
  if (fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, path.c_str()) < 0 ||
      (opened = open(path.c_str(), O_RDONLY | O_CLOEXEC)) < 0)
    s = Status::Errno(errno, "open layer data without events");
  alignas(fanotify_event_metadata) char buffer[16 * sizeof(fanotify_event_metadata)];
  // Others may have opened it at the same time: any of the descriptors will do.
  for (ssize_t n; s.ok() && (n = read(group, buffer, sizeof buffer)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      if (errno != EAGAIN || *quiet < 0) s = Status::Errno(errno, "open layer data without events");
      break;
    }
    for (auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer); FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n)) {
      if (event->fd < 0) continue;
      if (*quiet < 0)
        *quiet = event->fd;
      else
        close(event->fd);
    }
  }
  if (opened >= 0) close(opened);
  close(group);
  if (!s.ok() && *quiet >= 0) {
    close(*quiet);
    *quiet = -1;
  }
  return s;
}

}  // namespace ocifs::layer
