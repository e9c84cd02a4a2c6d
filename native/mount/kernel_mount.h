// The mount API of Linux 5.2 (fsopen, fsconfig, fsmount, move_mount) as far as ocifs needs it. Descriptors that are returned are
// the caller's, close-on-exec. All may block for as long as the file system that is mounted reads; none is to be called from the
// main thread but MountFuseDetached. Flags are MOUNT_ATTR_*.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../base/status.h"

namespace ocifs::mount {

// A FUSE mount at no path: visible to nobody, reached through `mount_fd` alone, and gone when neither that descriptor nor any file
// opened through it is left. Only root reaches it.
Status MountFuseDetached(int* fuse_fd, int* mount_fd);

struct ErofsMount {
  std::string source;           // shown by /proc/mounts where that can be had: see MountErofs
  int image_fd = -1;            // a regular file; stays the caller's
  std::vector<int> device_fds;  // in the order of the image's slots; stay the caller's
  std::vector<std::pair<std::string, std::string>> options;  // "context" and its kin; no value: a flag
  uint32_t attributes = 0;
};

// The kernel's EROFS on files, at no path yet. It opens them again and holds them until the last reference to the mount has gone. /proc/mounts shows `source` when that can stand for a relative path ("host/name:tag") of up to 255 bytes, "/proc/self/fd/N" otherwise: the kernel
// shows the very name by which it has opened the image. "corrupt" when EROFS finds the image to be so, "unsupported" for what the
// system does not offer.
Status MountErofs(const ErofsMount& what, int* mount_fd);

// Attaches such a mount to a path, where it stays without the descriptor.
Status AttachMount(int mount_fd, const std::string& target);

// Whether the file system type can be had, loading its module when needed: "unsupported" with the reason.
Status ProbeFileSystem(const std::string& type);

}  // namespace ocifs::mount
