// EROFS reader over a memory-mapped tarindex (or any uncompressed EROFS metadata image). Everything in the file is
// hostile input: each offset is checked against the mapping before it is followed, and every loop is bounded.
// Thread-safe for concurrent reads: an Image is immutable once open. Format: docs/FORMATS.md.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../base/status.h"

namespace ocifs::erofs {

struct DeviceSlot {
  std::string tag;       // up to 64 bytes, NULs cut off
  uint64_t blocks = 0;   // size in blocks
  uint64_t uniaddr = 0;  // first block in the flat address space; 0 = not mapped there
};

struct Attr {
  uint64_t nid = 0;
  uint32_t ino = 0;
  uint32_t mode = 0;  // S_IFMT and permission bits
  uint32_t uid = 0, gid = 0, nlink = 0;
  uint64_t size = 0;
  int64_t mtime_sec = 0;
  uint32_t mtime_nsec = 0;
  uint32_t rdev_major = 0, rdev_minor = 0;
};

struct Dirent {
  uint64_t nid = 0;
  uint8_t type = 0;  // EROFS file type: 1 reg 2 dir 3 chr 4 blk 5 fifo 6 sock 7 symlink
  std::string_view name;  // points into the mapping
};

enum class ExtentKind { kHole, kIndex, kDevice };
struct Extent {
  ExtentKind kind = ExtentKind::kHole;
  uint64_t file_offset = 0;
  uint64_t length = 0;
  uint32_t device = 0;  // kDevice: 1-based slot number
  uint64_t offset = 0;  // kDevice: byte in that device; kIndex: byte in the mapped file
};

class Image {
 public:
  struct Private;  // opaque: image_private.h
  // Maps `fd` (kept open by the caller only during the call) and checks superblock, checksum, features, device table,
  // long xattr prefixes and root inode. A feature that is not handled is refused by name ("unsupported"). The file must
  // not shrink while the image lives: a mapped page past the end of its file is a SIGBUS.
  static Status Open(int fd, std::unique_ptr<Image>* out);
  // The same over bytes in memory: an index that has no file yet.
  static Status OpenBytes(std::vector<uint8_t> bytes, std::unique_ptr<Image>* out);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // To be called before others use the image, for a tarindex of ours: its superblock says whether any inode has xattrs.
  void TrustXattrFlag();
  // No inode has any, as far as that is known.
  bool has_no_xattrs() const { return has_no_xattrs_; }

  uint64_t root_nid() const { return root_nid_; }
  uint64_t inode_count() const { return inode_count_; }
  uint32_t block_size() const { return 1u << blkszbits_; }
  uint64_t size_bytes() const { return map_size_; }         // of the mapped file
  uint64_t primary_blocks() const { return primary_blocks_; }
  const std::vector<DeviceSlot>& devices() const { return devices_; }
  const uint8_t* data() const { return map_; }

  Status GetAttr(uint64_t nid, Attr* out) const;
  // ENOENT is a Status with err == ENOENT; ENOTDIR when `dir` is no directory, ENAMETOOLONG above 255 bytes. "." and
  // ".." are found as stored; "." also in a directory that omits it. A directory that is not sorted gives ENOENT for entries the search cannot reach.
  Status Lookup(uint64_t dir, std::string_view name, Dirent* out) const;
  // Calls `emit(entry, next_cookie)` from `cookie` (0 = start) until it returns false or the directory ends.
  // A cookie is the position of the next entry and stays valid as long as the image: any process can continue. "." of a
  // directory that omits it comes last, as the kernel's own EROFS gives it.
  Status ReadDir(uint64_t dir, uint64_t cookie, const std::function<bool(const Dirent&, uint64_t)>& emit) const;
  Status ReadLink(uint64_t nid, std::string* out) const;
  // Names as listxattr(2) gives them: each followed by NUL.
  Status ListXattr(uint64_t nid, std::string* out) const;
  // Calls `visit(name, value)` for each attribute, in stored order; the same checks as ListXattr's. A hostile image may name one twice.
  Status VisitXattrs(uint64_t nid, const std::function<void(std::string_view, std::string_view)>& visit) const;
  // err == ENODATA when the inode has no such attribute. `name` is the full name ("user.foo").
  Status GetXattr(uint64_t nid, std::string_view name, std::string* out) const;
  // Appends the extents that cover [offset, min(offset+length, size)) of a regular file, in order, without gaps.
  // Every kDevice extent lies inside its device; every kIndex extent inside the mapping. Stops early after `max_chunks`
  // chunks of the file, which bounds the time and the extents of one call: the last extent then ends before the range
  // does, and a further call continues there. A read of 1 MiB has at most 2049 chunks.
  Status MapRange(uint64_t nid, uint64_t offset, uint64_t length, std::vector<Extent>* out,
                  uint64_t max_chunks = UINT64_MAX) const;

 private:
  Image() = default;
  Status Load();
  const uint8_t* map_ = nullptr;  // a mapping, or owned_'s bytes
  uint64_t map_size_ = 0;
  std::vector<uint8_t> owned_;
  uint8_t blkszbits_ = 9;
  bool has_no_xattrs_ = false;
  uint64_t root_nid_ = 0, inode_count_ = 0, primary_blocks_ = 0;
  std::vector<DeviceSlot> devices_;
  std::unique_ptr<Private> p_;
};

}  // namespace ocifs::erofs
