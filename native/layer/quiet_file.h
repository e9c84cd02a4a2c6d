#pragma once
#include "../base/status.h"

namespace ocifs::layer {
// A second descriptor of the regular file behind `fd`, to read and write, whose use raises no fanotify events, whoever watches the
// file. Needs CAP_SYS_ADMIN.
Status OpenQuietly(int fd, int* quiet);
}  // namespace ocifs::layer
