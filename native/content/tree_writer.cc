#include "tree_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

namespace ocifs::content {

namespace {

// The fixed part of a record, little endian, as src/native/tree-records.ts lays it out.
struct Record {
  uint32_t bytes;
  uint32_t kind;
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  uint32_t mtime_nsec;
  int64_t mtime_sec;
  uint64_t size;
  uint32_t source;
  uint32_t major;
  uint32_t minor;
  uint32_t path_bytes;
  uint32_t link_bytes;
  uint32_t xattr_bytes;
};
static_assert(sizeof(Record) == 64);

struct Range {
  uint64_t file_offset, size, source_offset;
};

class Writer {
 public:
  Writer(const TreeTarget& target, TreeCounts* counts) : target_(target), counts_(counts) {}

  Status Apply(const Record& r, const uint8_t* body) {
    record_ = &r;
    path_.assign(reinterpret_cast<const char*>(body), r.path_bytes);
    link_.assign(reinterpret_cast<const char*>(body + r.path_bytes), r.link_bytes);
    xattrs_ = body + r.path_bytes + r.link_bytes;
    // A NUL would end a name early.
    if (path_.find('\0') != std::string::npos) return Status::Corrupt("a path holds a NUL byte");
    Status s = Make();
    if (s.ok()) ++counts_->entries;
    return s.ok() ? s : Status{s.err, s.code, "\"" + path_ + "\": " + s.message};
  }

 private:
  Status Make() {
    const auto kind = static_cast<TreeOp>(record_->kind);
    if (kind == TreeOp::kDirectoryMetadata) {
      Fd fd;
      Status s = path_.empty() ? OpenBeneath(target_.root, ".", O_RDONLY | O_DIRECTORY, &fd)
                               : OpenBeneath(target_.root, path_, O_RDONLY | O_DIRECTORY, &fd);
      return s.ok() ? Describe(fd.get()) : s;
    }
    std::string name;
    int directory = -1;
    Status s = Parent(path_, &directory, &name);
    if (!s.ok()) return s;
    switch (kind) {
      case TreeOp::kDirectory:
        return mkdirat(directory, name.c_str(), 0700 | CreationMode()) < 0 ? Status::Errno(errno, "make directory") : s;
      case TreeOp::kFileFromRanges:
      case TreeOp::kFileFromName:
        return MakeFile(directory, name, kind);
      case TreeOp::kSymlink:
        if (symlinkat(link_.c_str(), directory, name.c_str()) < 0) return Status::Errno(errno, "make symbolic link");
        return DescribeName(directory, name);
      case TreeOp::kNode:
        if (mknodat(directory, name.c_str(), record_->mode, makedev(record_->major, record_->minor)) < 0)
          return Status::Errno(errno, "make device or FIFO");
        return DescribeName(directory, name);
      case TreeOp::kHardlink:
        return Link(directory, name);
      case TreeOp::kMoveFrom:
        return Move(directory, name);
      default:
        return Status::Usage("unknown kind of record");
    }
  }

  // The directory of a path, kept open for the next record: neighbours mostly share it.
  Status Parent(const std::string& path, int* directory, std::string* name) {
    const size_t slash = path.rfind('/');
    *name = slash == std::string::npos ? path : path.substr(slash + 1);
    if (name->empty() || *name == "." || *name == "..") return Status::Corrupt("a path without a name");
    const std::string_view parent = slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
    if (parent.empty()) {
      *directory = target_.root;
      return Status::Ok();
    }
    if (parent_.get() < 0 || parent != parent_path_) {
      Status s = OpenBeneath(target_.root, std::string(parent), O_PATH | O_DIRECTORY, &parent_);
      if (!s.ok()) {
        parent_path_.clear();
        parent_.Reset(-1);
        return s;
      }
      parent_path_ = parent;
    }
    *directory = parent_.get();
    return Status::Ok();
  }

  Status Source(int* fd) const {
    if (record_->source >= target_.sources.size()) return Status::Usage("a source that was not given");
    *fd = target_.sources[record_->source];
    return Status::Ok();
  }

  Status MakeFile(int directory, const std::string& name, TreeOp kind) {
    int source = -1;
    if (record_->size > 0) {
      Status s = Source(&source);
      if (!s.ok()) return s;
    }
    Fd to(openat(directory, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, CreationMode()));
    if (to.get() < 0) return Status::Errno(errno, "create file");
    Status s = kind == TreeOp::kFileFromName ? FillFromName(source, to.get()) : FillFromRanges(source, to.get());
    return s.ok() ? Describe(to.get()) : s;
  }

  Status FillFromName(int source, int to) {
    Fd from;
    Status s = OpenSource(source, link_, record_->size, &from);
    return s.ok() ? CloneFile(from.get(), record_->size, to, counts_) : s;
  }

  Status FillFromRanges(int source, int to) {
    if (record_->size == 0) return Status::Ok();
    bool all_cloned = true;
    uint64_t end = 0;
    for (size_t at = 0; at + sizeof(Range) <= link_.size(); at += sizeof(Range)) {
      Range range;
      std::memcpy(&range, link_.data() + at, sizeof range);
      if (range.size > record_->size || range.file_offset > record_->size - range.size)
        return Status::Usage("a range outside of its file");
      bool cloned = false;
      Status s = CopyRange(source, range.source_offset, to, range.file_offset, range.size, &cloned);
      if (!s.ok()) return s;
      all_cloned = all_cloned && cloned;
      end = range.file_offset + range.size;
    }
    if (end < record_->size && ftruncate(to, static_cast<off_t>(record_->size)) < 0) return Status::Errno(errno, "size file");
    ++(all_cloned ? counts_->cloned : counts_->copied);
    return Status::Ok();
  }

  Status Link(int directory, const std::string& name) {
    // Opened and linked by descriptor: the first name's way is checked like any other.
    Fd first;
    Status s = OpenBeneath(target_.root, link_, O_PATH, &first);
    if (!s.ok()) return s;
    const std::string self = "/proc/self/fd/" + std::to_string(first.get());
    if (linkat(AT_FDCWD, self.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) < 0) {
      // A symbolic link cannot be linked through its descriptor without privileges; its directory was checked just now.
      if (linkat(target_.root, link_.c_str(), directory, name.c_str(), 0) < 0) return Status::Errno(errno, "make hard link");
    }
    return Status::Ok();
  }

  Status Move(int directory, const std::string& name) {
    int source = -1;
    Status s = Source(&source);
    if (!s.ok()) return s;
    Fd fd;
    s = OpenSource(source, link_, record_->size, &fd);
    if (!s.ok()) return s;
    if (renameat(source, link_.c_str(), directory, name.c_str()) < 0) return Status::Errno(errno, "move file into place");
    return Describe(fd.get());
  }

  // Permissions to create with. Set-id bits come when the owner is right; nobody else can enter a tree that is being made.
  mode_t CreationMode() const { return record_->mode & 0777; }

  // Owner first, since a change of it takes set-id bits and capabilities away; times last. What creating it gave already is left
  // alone: each change is a transaction of the file system, looking is not.
  Status Describe(int fd) {
    struct stat st;
    if (fstat(fd, &st) < 0) return Status::Errno(errno, "stat");
    const bool owned = CountOwner(st);
    if (!owned && fchown(fd, record_->uid, record_->gid) < 0) return Status::Errno(errno, "set owner");
    if ((!owned || !HasMode(st)) && fchmod(fd, record_->mode & 07777) < 0) return Status::Errno(errno, "set mode");
    Status s = SetXattrs([fd](const char* n, const void* v, size_t size) { return fsetxattr(fd, n, v, size, 0); });
    if (!s.ok()) return s;
    const timespec times[2] = {{record_->mtime_sec, record_->mtime_nsec}, {record_->mtime_sec, record_->mtime_nsec}};
    return futimens(fd, times) < 0 ? Status::Errno(errno, "set times") : s;
  }

  // What cannot be opened without effect: links, devices, FIFOs.
  Status DescribeName(int directory, const std::string& name) {
    struct stat st;
    if (fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return Status::Errno(errno, "stat");
    const bool owned = CountOwner(st);
    if (!owned && fchownat(directory, name.c_str(), record_->uid, record_->gid, AT_SYMLINK_NOFOLLOW) < 0)
      return Status::Errno(errno, "set owner");
    if (!S_ISLNK(record_->mode) && (!owned || !HasMode(st)) && fchmodat(directory, name.c_str(), record_->mode & 07777, 0) < 0)
      return Status::Errno(errno, "set mode");
    const std::string path = "/proc/self/fd/" + std::to_string(directory) + "/" + name;
    Status s = SetXattrs([&path](const char* n, const void* v, size_t size) { return lsetxattr(path.c_str(), n, v, size, 0); });
    if (!s.ok()) return s;
    const timespec times[2] = {{record_->mtime_sec, record_->mtime_nsec}, {record_->mtime_sec, record_->mtime_nsec}};
    if (utimensat(directory, name.c_str(), times, AT_SYMLINK_NOFOLLOW) < 0) return Status::Errno(errno, "set times");
    return s;
  }

  bool HasMode(const struct stat& st) const { return (st.st_mode & 07777) == (record_->mode & 07777); }

  // Whether the owner needs no change: it is right, or cannot be set, which is counted.
  bool CountOwner(const struct stat& st) {
    const bool right = st.st_uid == record_->uid && st.st_gid == record_->gid;
    if (!right && !target_.privileged) ++counts_->skipped;
    return right || !target_.privileged;
  }

  // Packed as the EROFS listing packs them: u16 name length, u16 value length, name, value.
  template <typename Set>
  Status SetXattrs(Set set) {
    for (uint32_t at = 0; at + 4 <= record_->xattr_bytes;) {
      uint16_t name_bytes, value_bytes;
      std::memcpy(&name_bytes, xattrs_ + at, 2);
      std::memcpy(&value_bytes, xattrs_ + at + 2, 2);
      at += 4;
      if (uint64_t{at} + name_bytes + value_bytes > record_->xattr_bytes) return Status::Usage("xattrs longer than their record");
      const std::string name(reinterpret_cast<const char*>(xattrs_ + at), name_bytes);
      const uint8_t* value = xattrs_ + at + name_bytes;
      at += uint32_t{name_bytes} + value_bytes;
      if (!target_.privileged && name.compare(0, 5, "user.") != 0) {
        ++counts_->skipped;
        continue;
      }
      if (set(name.c_str(), value, value_bytes) < 0) return Status::Errno(errno, "set extended attribute \"" + name + "\"");
    }
    return Status::Ok();
  }

  const TreeTarget& target_;
  TreeCounts* counts_;
  const Record* record_ = nullptr;
  std::string path_, link_;
  const uint8_t* xattrs_ = nullptr;
  std::string parent_path_;
  Fd parent_;
};

}  // namespace

Status ApplyTreeOps(const TreeTarget& target, const uint8_t* records, size_t size, TreeCounts* counts) {
  Writer writer(target, counts);
  for (size_t at = 0; at < size;) {
    Record r;
    if (size - at < sizeof r) return Status::Usage("tree: a record is cut off");
    std::memcpy(&r, records + at, sizeof r);
    const uint64_t body = uint64_t{r.path_bytes} + r.link_bytes + r.xattr_bytes;
    if (r.bytes != sizeof r + body || r.bytes > size - at) return Status::Usage("tree: a record has another length than its parts");
    Status s = writer.Apply(r, records + at + sizeof r);
    if (!s.ok()) return s;
    at += r.bytes;
  }
  return Status::Ok();
}

}  // namespace ocifs::content
