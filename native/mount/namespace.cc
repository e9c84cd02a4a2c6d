#include "namespace.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "kernel_mount.h"

namespace ocifs::mount {

namespace {

Status Enter(int fd, const std::string& ns) {
  if (unshare(CLONE_FS) < 0) return Status::Errno(errno, "leave the directories shared with other threads");
  if (setns(fd, CLONE_NEWNS) < 0) return Status::Errno(errno, "enter mount namespace " + ns);
  return Status::Ok();
}

// Of the mount that is there, from what the kernel has at hand: the file system may not answer.
Status DeviceAt(const std::string& path, std::string* device) {
  struct statx st {};
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &st) < 0)
    return Status::Errno(errno, "stat " + path);
  *device = std::to_string(st.stx_dev_major) + ":" + std::to_string(st.stx_dev_minor);
  return Status::Ok();
}

}  // namespace

Status RunIn(const std::string& ns, const std::function<Status()>& work) {
  if (ns.empty()) return work();
  const int fd = open(ns.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Status::Errno(errno, "open mount namespace " + ns);
  Status s;
  std::thread([&] {
    s = Enter(fd, ns);
    if (s.ok()) s = work();
  }).join();
  close(fd);
  return s;
}

Status MountFuse(const std::string& ns, const FuseMount& what, int* fd, std::string* device) {
  const int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fuse < 0) return Status::Errno(errno, "open /dev/fuse");
  const std::string data = "fd=" + std::to_string(fuse) + "," + what.data;
  Status s = RunIn(ns, [&] {
    if (::mount(what.source.c_str(), what.target.c_str(), "fuse.ocifs", what.flags, data.c_str()) < 0)
      return Status::Errno(errno, "mount " + what.target);
    Status found = DeviceAt(what.target, device);
    if (!found.ok()) umount2(what.target.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH);
    return found;
  });
  if (s.ok())
    *fd = fuse;
  else
    close(fuse);
  return s;
}

Status Unmount(const std::string& ns, const std::string& target, bool lazy, const std::string& device) {
  return RunIn(ns, [&] {
    if (!device.empty()) {
      std::string there;
      if (Status s = DeviceAt(target, &there); !s.ok()) return s;
      if (there != device) return Status::Ok();
    }
    return umount2(target.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? Status::Errno(errno, "unmount " + target)
                                                                                 : Status::Ok();
  });
}

Status FindDirectory(const std::string& ns, const std::string& path, std::string* real) {
  return RunIn(ns, [&] {
    const int fd = open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Status::Errno(errno, path);
    // The kernel still knows the root's attributes when a mount's daemon is dead; this it has to ask.
    struct statfs st {};
    const int failed = fstatfs(fd, &st) < 0 ? errno : 0;
    close(fd);
    if (failed != 0) return Status::Errno(failed, path);
    const std::unique_ptr<char, decltype(&free)> found(realpath(path.c_str(), nullptr), &free);
    if (!found) return Status::Errno(errno, path);
    *real = found.get();
    return Status::Ok();
  });
}

Status Attach(const std::string& ns, int mount_fd, const std::string& target) {
  return RunIn(ns, [&] { return AttachMount(mount_fd, target); });
}

}  // namespace ocifs::mount
