// mount(2) and its kin at a path of another mount namespace. A thread may enter one only when it shares its root and working directory
// with no other, as Node's do, so each call for another namespace runs on a thread of its own, which ends with it. Descriptors are the
// process' own throughout: what is opened here can be mounted there.
#pragma once
#include <functional>
#include <string>

#include "../base/status.h"

namespace ocifs::mount {

// Runs `work` in the mount namespace that the file `ns` names (/proc/PID/ns/mnt, /proc/PID/fd/N), with its root as root and working
// directory; on the calling thread where `ns` is empty.
Status RunIn(const std::string& ns, const std::function<Status()>& work);

struct FuseMount {
  std::string target, source;
  unsigned long flags = 0;  // MS_*
  std::string data;         // without fd=
};

// mount(2) of type fuse.ocifs. `fd`: its /dev/fuse descriptor, close-on-exec; `device`: "major:minor". Asks the file system nothing.
Status MountFuse(const std::string& ns, const FuseMount& what, int* fd, std::string* device);

// umount2(2); `lazy` detaches a busy mount. With a `device`, only if the topmost mount there is of it.
Status Unmount(const std::string& ns, const std::string& target, bool lazy, const std::string& device);

// The real path of a directory that answers statfs(2).
Status FindDirectory(const std::string& ns, const std::string& path, std::string* real);

// move_mount(2) of a mount at no path.
Status Attach(const std::string& ns, int mount_fd, const std::string& target);

}  // namespace ocifs::mount
