// A fanotify group whose events come before the kernel reads a file, and wait until they are answered (Linux 6.14).
#pragma once
#include <sys/fanotify.h>

#include <cstdint>

#include "../base/status.h"

// The headers of C libraries are older than the kernels that know these.
#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif
#ifndef FAN_EVENT_INFO_TYPE_RANGE
#define FAN_EVENT_INFO_TYPE_RANGE 6
#endif

namespace ocifs::fanotify {

// Which bytes are about to be read.
struct RangeInfo {
  fanotify_event_info_header header;
  uint32_t pad;
  uint64_t offset, count;
};

// `fd` is non-blocking. `unsupported` where the kernel does not have such groups. When the last descriptor of it is closed, all that
// wait go on as if they had been told that the bytes are there.
Status CreateGroup(int* fd);
// Reads of the regular file behind `fd` raise events from now on, of descriptors that are opened from now on. `unsupported` when its
// file system raises none.
Status MarkData(int group, int fd);
Status UnmarkData(int group, int fd);
// An event when a read-only descriptor of this file is closed.
Status MarkRelease(int group, int fd);
// The response to the event whose descriptor has this number, in whatever process. Ok also when nobody waits for it any more.
Status Respond(int group, int event_fd, bool allow);

}  // namespace ocifs::fanotify
