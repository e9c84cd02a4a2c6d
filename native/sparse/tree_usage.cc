#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "sparse.h"

namespace ocifs::sparse {

namespace {
// Deeper than any directory that is made here; guards the stack against what is not.
constexpr int kMaxDepth = 32;

// Takes over `fd`, a directory. What vanishes meanwhile does not count.
Status AddDirectory(int fd, int depth, uint64_t* bytes) {
  DIR* directory = fdopendir(fd);
  if (!directory) {
    const int e = errno;
    close(fd);
    return Status::Errno(e, "list cache directory");
  }
  Status s;
  while (s.ok()) {
    errno = 0;
    const dirent* entry = readdir(directory);
    if (!entry) {
      if (errno != 0) s = Status::Errno(errno, "list cache directory");
      break;
    }
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat st;
    if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
      if (errno != ENOENT) s = Status::Errno(errno, "stat cache file");
      continue;
    }
    *bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    if (!S_ISDIR(st.st_mode)) continue;
    if (depth == kMaxDepth) {
      s = Status::Limit("cache directory: nested too deeply");
      break;
    }
    const int inner = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inner >= 0)
      s = AddDirectory(inner, depth + 1, bytes);
    else if (errno != ENOENT && errno != ENOTDIR)
      s = Status::Errno(errno, "open cache directory");
  }
  closedir(directory);
  return s;
}
}  // namespace

Status TreeUsage(const std::string& path, uint64_t* bytes) {
  *bytes = 0;
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return Status::Ok();
  if (fd < 0) return Status::Errno(errno, "open cache directory " + path);
  struct stat st;
  if (fstat(fd, &st) == 0) *bytes += static_cast<uint64_t>(st.st_blocks) * 512;
  return AddDirectory(fd, 0, bytes);
}

}  // namespace ocifs::sparse
