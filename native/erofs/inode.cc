// Inodes: parsing, attributes, symlink targets.
#include <sys/stat.h>

#include <limits>

#include "image_private.h"

namespace ocifs::erofs {
namespace {

// Field offsets that both forms share, then those of each.
constexpr int kFormatAt = 0, kXattrCountAt = 2, kModeAt = 4, kNbAt = 6, kSizeAt = 8, kUnionAt = 16, kInoAt = 20;
constexpr int kCompactMtimeAt = 12, kCompactUidAt = 24, kCompactGidAt = 26;
constexpr int kExtUidAt = 24, kExtGidAt = 28, kExtMtimeAt = 32, kExtNsecAt = 40, kExtNlinkAt = 44;

// `high` is the 16 bits above i_u when the inode has them; a compact inode uses the field for its link count unless
// NLINK_1 says that the count is 1.
struct Fields {
  uint64_t high = 0;
  uint64_t block_mask = kBlockMask48;
};

Fields ParseCompact(const uint8_t* p, uint16_t format, int64_t epoch_sec, uint32_t nsec, Attr* a) {
  a->size = Le32(p + kSizeAt);
  a->uid = Le16(p + kCompactUidAt);
  a->gid = Le16(p + kCompactGidAt);
  // Unsigned, because a hostile epoch may wrap. Images older than the 48-bit layout keep 0 here.
  a->mtime_sec = static_cast<int64_t>(static_cast<uint64_t>(epoch_sec) + Le32(p + kCompactMtimeAt));
  a->mtime_nsec = nsec;
  if (!S_ISDIR(a->mode) && (format & kInodeBit4)) {
    a->nlink = 1;
    return {Le16(p + kNbAt), kBlockMask48};
  }
  a->nlink = Le16(p + kNbAt);
  return {0, kBlockMask32};
}

Fields ParseExtended(const uint8_t* p, Attr* a) {
  a->size = Le64(p + kSizeAt);
  a->uid = Le32(p + kExtUidAt);
  a->gid = Le32(p + kExtGidAt);
  a->mtime_sec = static_cast<int64_t>(Le64(p + kExtMtimeAt));
  a->mtime_nsec = Le32(p + kExtNsecAt);
  a->nlink = Le32(p + kExtNlinkAt);
  return {Le16(p + kNbAt), kBlockMask48};
}

}  // namespace

Status Image::Private::ReadInode(uint64_t nid, Inode* out) const {
  if (nid > size >> kSlotBits) return Status::Corrupt(OfInode(nid) + "lies outside the image");
  const uint64_t pos = meta_pos + (nid << kSlotBits);
  const uint8_t* p = Span(pos, kCompactInodeSize);
  if (p == nullptr) return Status::Corrupt(OfInode(nid) + "lies outside the image");
  const uint16_t format = Le16(p + kFormatAt);
  if (format & ~kInodeKnownBits)
    return Status::Unsupported(OfInode(nid) + "format " + std::to_string(format) + " is not known to ocifs");

  Inode inode;
  Attr& a = inode.attr;
  inode.pos = pos;
  inode.inode_size = format & kInodeExtended ? kExtendedInodeSize : kCompactInodeSize;
  if (!Span(pos, inode.inode_size)) return Status::Corrupt(OfInode(nid) + "the image ends inside it");
  inode.layout = format >> 1 & 7;
  if (inode.layout > kLayoutChunk)
    return Status::Unsupported(OfInode(nid) + "data layout " + std::to_string(inode.layout) + " is not known to ocifs");
  const uint32_t xattr_count = Le16(p + kXattrCountAt);
  inode.xattr_size = xattr_count == 0 ? 0 : kXattrHeaderSize + kXattrEntrySize * (xattr_count - 1);
  if (!Span(pos, uint64_t{inode.inode_size} + inode.xattr_size))
    return Status::Corrupt(OfInode(nid) + "the image ends inside its xattrs");

  a.nid = nid;
  a.mode = Le16(p + kModeAt);
  a.ino = Le32(p + kInoAt);
  const Fields f = inode.inode_size == kExtendedInodeSize ? ParseExtended(p, &a)
                                                          : ParseCompact(p, format, epoch_sec, fixed_nsec, &a);
  if (a.size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return Status::Corrupt(OfInode(nid) + "size " + std::to_string(a.size) + " is no file size");
  if (a.mtime_nsec >= 1000000000) return Status::Corrupt(OfInode(nid) + "nanoseconds of its mtime exceed a second");

  const uint32_t u = Le32(p + kUnionAt);
  switch (a.mode & S_IFMT) {
    case S_IFDIR:
      inode.dot_omitted = format & kInodeBit4;
      [[fallthrough]];
    case S_IFREG:
    case S_IFLNK:
      inode.start_block = u | f.high << 32;
      inode.no_blocks = inode.layout == kLayoutPlain && inode.start_block == f.block_mask;
      break;
    case S_IFCHR:
    case S_IFBLK:
      a.rdev_major = u >> 8 & 0xfff;
      a.rdev_minor = (u & 0xff) | (u >> 12 & 0xfff00);
      break;
    case S_IFIFO:
    case S_IFSOCK:
      break;
    default:
      return Status::Corrupt(OfInode(nid) + "mode " + std::to_string(a.mode) + " names no file type");
  }
  if (inode.layout == kLayoutChunk) {
    inode.chunk_format = u & 0xffff;
    if (inode.chunk_format & ~kChunkKnownBits)
      return Status::Unsupported(OfInode(nid) + "chunk format " + std::to_string(inode.chunk_format) +
                                 " is not known to ocifs");
    inode.chunk_bits = static_cast<uint8_t>(block_bits + (inode.chunk_format & kChunkBitsMask));
  }
  *out = inode;
  return Status::Ok();
}

Status Image::GetAttr(uint64_t nid, Attr* out) const {
  Inode inode;
  if (Status s = p_->ReadInode(nid, &inode); !s.ok()) return s;
  *out = inode.attr;
  return Status::Ok();
}

Status Image::ReadLink(uint64_t nid, std::string* out) const {
  Inode inode;
  if (Status s = p_->ReadInode(nid, &inode); !s.ok()) return s;
  if (!S_ISLNK(inode.attr.mode)) return {EINVAL, "usage", OfInode(nid) + "is no symbolic link"};
  if (inode.attr.size == 0 || inode.attr.size > kSymlinkMax)
    return Status::Corrupt(OfInode(nid) + "symbolic link of " + std::to_string(inode.attr.size) +
                           " bytes, want 1 to " + std::to_string(kSymlinkMax));
  out->clear();
  while (out->size() < inode.attr.size) {
    const uint64_t at = out->size();
    const uint64_t length = std::min(inode.attr.size - at, block_size() - at % block_size());
    const uint8_t* p = nullptr;
    if (Status s = p_->ReadInPlace(inode, at, length, &p); !s.ok()) return s;
    out->append(reinterpret_cast<const char*>(p), length);
  }
  if (out->find('\0') != std::string::npos) return Status::Corrupt(OfInode(nid) + "symbolic link contains a NUL byte");
  return Status::Ok();
}

}  // namespace ocifs::erofs
