#include "objects.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ocifs::content {

std::string ObjectName(const Digest256& digest) {
  static const char hex[] = "0123456789abcdef";
  std::string name;
  for (size_t i = 0; i < digest.size(); ++i) {
    if (i == 1) name += '/';
    name += hex[digest[i] >> 4];
    name += hex[digest[i] & 15];
  }
  return name;
}

static Status NameObject(int objects, const std::string& temporary, int fd, const Digest256& digest) {
  const std::string name = ObjectName(digest);
  if (fchmod(fd, 0444) < 0) return Status::Errno(errno, "protect object");
  if (mkdirat(objects, name.substr(0, 2).c_str(), 0755) < 0 && errno != EEXIST) return Status::Errno(errno, "make object directory");
  // One that is there already has the same bytes, and may be open: it is replaced all the same, which harms nobody.
  if (renameat(objects, temporary.c_str(), objects, name.c_str()) < 0) return Status::Errno(errno, "name object");
  return Status::Ok();
}

Status PutObject(int objects, int from, uint64_t offset, uint64_t size, Digest256* digest, Counts* counts) {
  // A name no other thread or process has; one left by a dead process that had it is written anew.
  const std::string temporary = "." + std::to_string(getpid()) + "-" + std::to_string(gettid()) + ".tmp";
  unlinkat(objects, temporary.c_str(), 0);
  Fd to(openat(objects, temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444));
  if (to.get() < 0) return Status::Errno(errno, "create object");
  bool cloned = false;
  Status s = CopyRange(from, offset, to.get(), 0, size, &cloned);
  if (s.ok()) s = CheckSource(to.get(), size);
  // Of the copy, not of what it was made from.
  if (s.ok()) s = VerityOfRange(to.get(), 0, size, digest);
  if (s.ok()) s = NameObject(objects, temporary, to.get(), *digest);
  if (!s.ok())
    unlinkat(objects, temporary.c_str(), 0);
  else
    ++(cloned ? counts->cloned : counts->copied);
  return s;
}

}  // namespace ocifs::content
