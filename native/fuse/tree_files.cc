#include "tree_files.h"

#include <dirent.h>

#include <algorithm>
#include <climits>

namespace ocifs::fuse {

namespace {
constexpr uint64_t kNodeForNidZero = 1ull << 62;

uint32_t DirentType(uint8_t erofs_type) {
  static constexpr uint8_t types[] = {DT_UNKNOWN, DT_REG, DT_DIR, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_LNK};
  return erofs_type < sizeof types ? types[erofs_type] : uint8_t{DT_UNKNOWN};
}

// dev_t as the FUSE protocol carries it (new_encode_dev in 32 bits).
uint32_t EncodeDev(uint32_t major, uint32_t minor) {
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

// The C library takes a directory entry of inode 0 for a deleted one and hides it.
uint64_t ToIno(uint64_t nid) { return nid == 0 ? kNodeForNidZero : nid; }
}  // namespace

Status TreeFiles::Create(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices,
                         std::unique_ptr<FileSystem>* out) {
  if (devices.size() != image->devices().size())
    return Status::Mismatch("the tarindex names " + std::to_string(image->devices().size()) + " layers, " +
                            std::to_string(devices.size()) + " were given");
  out->reset(new TreeFiles(std::move(image), std::move(devices)));
  return Status::Ok();
}

uint64_t TreeFiles::ToNid(uint64_t node) const {
  // A bijection: the root is node 1, an inode that has nid 1 takes the root's number, nid 0 (no valid node) a free one.
  if (node == FUSE_ROOT_ID) return image_->root_nid();
  if (node == kNodeForNidZero) return 0;
  if (node == image_->root_nid()) return FUSE_ROOT_ID;
  return node;
}

uint64_t TreeFiles::ToNode(uint64_t nid) const {
  if (nid == image_->root_nid()) return FUSE_ROOT_ID;
  if (nid == 0) return kNodeForNidZero;
  if (nid == FUSE_ROOT_ID) return image_->root_nid();
  return nid;
}

Totals TreeFiles::totals() const {
  Totals out{image_->size_bytes(), image_->inode_count()};
  for (const auto& d : devices_) out.bytes += d->size_bytes();
  return out;
}

Status TreeFiles::GetAttr(uint64_t node, fuse_attr* out) const {
  const uint64_t nid = ToNid(node);
  erofs::Attr a;
  if (Status s = image_->GetAttr(nid, &a); !s.ok()) return s;
  *out = {};
  out->ino = ToIno(nid);
  out->size = a.size;
  // Not the blocks that are cached: programs such as cp take st_blocks < size for holes and skip them.
  out->blocks = (a.size + 511) / 512;
  out->atime = out->mtime = out->ctime = static_cast<uint64_t>(a.mtime_sec);
  out->atimensec = out->mtimensec = out->ctimensec = a.mtime_nsec;
  out->mode = a.mode;
  out->nlink = a.nlink;
  out->uid = a.uid;
  out->gid = a.gid;
  out->rdev = EncodeDev(a.rdev_major, a.rdev_minor);
  out->blksize = 4096;
  return Status::Ok();
}

Status TreeFiles::Lookup(uint64_t directory, std::string_view name, uint64_t* node) const {
  erofs::Dirent d;
  if (Status s = image_->Lookup(ToNid(directory), name, &d); !s.ok()) return s;
  *node = ToNode(d.nid);
  return Status::Ok();
}

Status TreeFiles::ReadDir(uint64_t directory, uint64_t cookie,
                          const std::function<bool(const Entry&, uint64_t)>& emit) const {
  Status bad;
  Status s = image_->ReadDir(ToNid(directory), cookie, [&](const erofs::Dirent& d, uint64_t next) {
    if (d.name.empty() || d.name.size() > NAME_MAX) {
      bad = Status::Corrupt("directory entry name");
      return false;
    }
    return emit({d.name, ToNode(d.nid), ToIno(d.nid), DirentType(d.type)}, next);
  });
  return s.ok() ? bad : s;
}

Status TreeFiles::ReadLink(uint64_t node, std::string* out) const { return image_->ReadLink(ToNid(node), out); }

Status TreeFiles::GetXattr(uint64_t node, std::string_view name, std::string* out) const {
  // The kernel then asks no more, for as long as the mount lives, and answers EOPNOTSUPP itself. ListXattr does not do the same: many programs
  // expect that a list can be had, and fewer ask for it.
  if (image_->has_no_xattrs()) return {ENOSYS, "unsupported", "xattrs: the image has none"};
  return image_->GetXattr(ToNid(node), name, out);
}

Status TreeFiles::ListXattr(uint64_t node, std::string* out) const { return image_->ListXattr(ToNid(node), out); }

Status TreeFiles::MapRead(uint64_t node, uint64_t offset, uint64_t size, std::vector<Piece>* out) const {
  thread_local std::vector<erofs::Extent> extents;
  extents.clear();
  if (Status s = image_->MapRange(ToNid(node), offset, size, &extents); !s.ok()) return s;
  for (const auto& e : extents) {
    Piece p;
    p.length = e.length;
    p.file_offset = e.file_offset;
    if (e.kind == erofs::ExtentKind::kIndex) {
      p.kind = Piece::Kind::kBytes;
      p.bytes = image_->data() + e.offset;
    } else if (e.kind == erofs::ExtentKind::kDevice) {
      p.kind = Piece::Kind::kDevice;
      p.device = e.device;
      p.offset = e.offset;
    }
    out->push_back(p);
  }
  return Status::Ok();
}

uint64_t TreeFiles::ReadAheadBytes(uint64_t node, const Piece& piece) const {
  erofs::Attr attr;
  if (!image_->GetAttr(ToNid(node), &attr).ok() || attr.size <= piece.file_offset) return piece.length;
  return std::min(attr.size - piece.file_offset, devices_[piece.device - 1]->size_bytes() - piece.offset);
}

}  // namespace ocifs::fuse
