#include "kernel_mount.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

namespace ocifs::mount {

namespace {

// By number: C libraries older than glibc 2.36 have no names for them.
int FsOpen(const char* type) { return static_cast<int>(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)); }
int FsConfig(int fs, unsigned command, const char* key, const char* value) {
  return static_cast<int>(syscall(SYS_fsconfig, fs, command, key, value, 0));
}
int FsMount(int fs, unsigned attributes) { return static_cast<int>(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes)); }
int MoveMount(int from, int directory, const char* target) {
  return static_cast<int>(syscall(SYS_move_mount, from, "", directory, target, MOVE_MOUNT_F_EMPTY_PATH));
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

std::string ProcPath(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// A failed call on a file system context, with what the file system itself says of it.
Status Failed(int fs, int err, const std::string& what) {
  std::string said;
  fcntl(fs, F_SETFL, O_NONBLOCK);
  char line[1024];
  for (ssize_t n; (n = read(fs, line, sizeof line)) > 0;) {
    std::string text(line, static_cast<size_t>(n));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    said += said.empty() ? " (" : "; ";
    said += text;
  }
  if (!said.empty()) said += ")";
  const std::string message = what + ": " + std::strerror(err) + said;
  switch (err) {
    case EUCLEAN:
      return Status{err, "corrupt", message};
    case ENOSYS:
    case ENODEV:
    case EPERM:
    case EINVAL:
    case ENOTBLK:
    case EOPNOTSUPP:
      return Status{err, "unsupported", message};
    default:
      return Status{err, "io", message};
  }
}

Status Set(int fs, const std::string& key, const std::string& value) {
  if (FsConfig(fs, FSCONFIG_SET_STRING, key.c_str(), value.c_str()) < 0) return Failed(fs, errno, "option " + key + "=" + value);
  return Status::Ok();
}

Status SetFlag(int fs, const std::string& key) {
  if (FsConfig(fs, FSCONFIG_SET_FLAG, key.c_str(), nullptr) < 0) return Failed(fs, errno, "option " + key);
  return Status::Ok();
}

// fsconfig(2) takes strings of 255 bytes at most, and gives no other way to name a source.
constexpr size_t kMaxOptionBytes = 255;

// Makes the relative path `source` a link to `link` below `root`. False when it cannot be one.
bool PlaceLink(int root, const std::string& source, const std::string& link) {
  if (source.empty() || source.front() == '/' || source.back() == '/' || source.size() > kMaxOptionBytes) return false;
  int at = root;
  Fd held;
  for (size_t begin = 0;;) {
    const size_t end = source.find('/', begin);
    const std::string name = source.substr(begin, end == std::string::npos ? end : end - begin);
    if (name == "." || name == ".." || name.size() > 255) return false;
    if (end == std::string::npos) return symlinkat(link.c_str(), at, name.c_str()) == 0;
    begin = end + 1;
    if (name.empty()) continue;  // "//" is "/"
    if (mkdirat(at, name.c_str(), 0700) < 0) return false;
    const int next = openat(at, name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (next < 0) return false;
    held.reset(next);
    at = next;
  }
}

// A directory that no path leads to, in memory; -1 when there can be none.
int ScratchDirectory() {
  Fd fs(FsOpen("tmpfs"));
  if (fs.get() < 0 || FsConfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0) return -1;
  return FsMount(fs.get(), MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}

// The image is opened when the file system is created, so the working directory has to be the right one then.
Status Configure(int fs, const ErofsMount& m, const std::string& source) {
  if (Status s = SetFlag(fs, "ro"); !s.ok()) return s;
  if (Status s = Set(fs, "source", source); !s.ok()) return s;
  // Each option is a call of its own, so no page limits how many there are, and a path through a descriptor is short whatever the file is called.
  for (const int fd : m.device_fds)
    if (Status s = Set(fs, "device", ProcPath(fd)); !s.ok()) return s;
  for (const auto& [key, value] : m.options)
    if (Status s = value.empty() ? SetFlag(fs, key) : Set(fs, key, value); !s.ok()) return s;
  if (FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0) return Failed(fs, errno, "mount the tarindex with the kernel's EROFS");
  return Status::Ok();
}

Status Mount(const ErofsMount& m, int* mount_fd) {
  Fd fs(FsOpen("erofs"));
  if (fs.get() < 0) return Status::Errno(errno, "fsopen erofs");
  std::string source = ProcPath(m.image_fd);
  Fd scratch(ScratchDirectory());
  // The working directory of this thread alone.
  if (scratch.get() >= 0 && PlaceLink(scratch.get(), m.source, source) && unshare(CLONE_FS) == 0 && fchdir(scratch.get()) == 0)
    source = m.source;
  if (Status s = Configure(fs.get(), m, source); !s.ok()) return s;
  *mount_fd = FsMount(fs.get(), m.attributes);
  return *mount_fd < 0 ? Failed(fs.get(), errno, "fsmount erofs") : Status::Ok();
}

}  // namespace

Status MountFuseDetached(int* fuse_fd, int* mount_fd) {
  Fd fuse(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (fuse.get() < 0) return Status::Errno(errno, "open /dev/fuse");
  Fd fs(FsOpen("fuse"));
  if (fs.get() < 0) return Status{errno, "unsupported", std::string("fsopen fuse: ") + std::strerror(errno)};
  const std::pair<const char*, std::string> options[] = {
      {"source", "ocifs-devices"}, {"fd", std::to_string(fuse.get())}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"}};
  for (const auto& [key, value] : options)
    if (Status s = Set(fs.get(), key, value); !s.ok()) return s;
  if (FsConfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0) return Failed(fs.get(), errno, "mount the device files");
  const int mounted = FsMount(fs.get(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  if (mounted < 0) return Failed(fs.get(), errno, "fsmount fuse");
  *fuse_fd = fuse.release();
  *mount_fd = mounted;
  return Status::Ok();
}

Status MountErofs(const ErofsMount& what, int* mount_fd) {
  Status s;
  std::thread([&] { s = Mount(what, mount_fd); }).join();
  return s;
}

Status AttachMount(int mount_fd, const std::string& target) {
  if (MoveMount(mount_fd, AT_FDCWD, target.c_str()) < 0) return Status::Errno(errno, "mount " + target);
  return Status::Ok();
}

Status ProbeFileSystem(const std::string& type) {
  Fd fs(FsOpen(type.c_str()));
  if (fs.get() >= 0) return Status::Ok();
  const char* why = errno == ENODEV  ? "the kernel does not have it"
                    : errno == EPERM ? "this process may not mount it"
                    : errno == ENOSYS ? "the kernel has no fsopen(2), Linux 5.2 and later do"
                                      : std::strerror(errno);
  return Status{errno, "unsupported", type + ": " + why};
}

}  // namespace ocifs::mount
