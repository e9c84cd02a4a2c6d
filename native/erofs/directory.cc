// Directories: a sequence of blocks, each a table of 12-byte entries followed by their names; names ascend bytewise
// through the whole directory.
#include <sys/stat.h>

#include <algorithm>

#include "image_private.h"

namespace ocifs::erofs {
namespace {

constexpr uint64_t kNameOffAt = 8, kTypeAt = 10;

// Entry `i` of a checked block. False when its name does not lie in the block or has no possible length.
bool EntryAt(const DirBlock& b, uint32_t i, Dirent* out) {
  const uint8_t* e = b.data + i * kDirentSize;
  const uint32_t start = Le16(e + kNameOffAt);
  const bool last = i + 1 == b.count;
  const uint32_t end = last ? b.size : Le16(e + kDirentSize + kNameOffAt);
  if (start < b.count * kDirentSize || start >= end || end > b.size) return false;
  const char* name = reinterpret_cast<const char*>(b.data + start);
  // The last name is followed by the block's zero padding, if any.
  const size_t length = last ? strnlen(name, end - start) : end - start;
  if (length == 0 || length > kNameMax) return false;
  *out = {Le64(e), e[kTypeAt], {name, length}};
  return true;
}

// What a lookup can do without: no file system entry may be called so.
bool HasForbiddenByte(std::string_view name) {
  return std::memchr(name.data(), '/', name.size()) != nullptr || std::memchr(name.data(), 0, name.size()) != nullptr;
}

Status BadBlock(uint64_t nid, uint64_t index) {
  return Status::Corrupt(OfInode(nid) + "directory block " + std::to_string(index) + " is malformed");
}

}  // namespace

Status Image::Private::ReadDirBlock(const Inode& dir, uint64_t index, DirBlock* out) const {
  const uint64_t offset = index << block_bits;
  const uint64_t length = std::min(dir.attr.size - offset, block_size());
  const uint8_t* p = nullptr;
  if (Status s = ReadInPlace(dir, offset, length, &p); !s.ok()) return s;
  if (length < kDirentSize) return BadBlock(dir.attr.nid, index);
  const uint32_t table = Le16(p + kNameOffAt);
  if (table < kDirentSize || table % kDirentSize != 0 || table >= length) return BadBlock(dir.attr.nid, index);
  *out = {p, static_cast<uint32_t>(length), table / static_cast<uint32_t>(kDirentSize)};
  return Status::Ok();
}

Status Image::Lookup(uint64_t dir_nid, std::string_view name, Dirent* out) const {
  // Short enough for std::string's own buffer: a failed lookup is an everyday answer and must not allocate.
  const auto absent = [] { return Status::NotFound("no such entry"); };
  Inode dir;
  if (Status s = p_->ReadInode(dir_nid, &dir); !s.ok()) return s;
  if (!S_ISDIR(dir.attr.mode)) return {ENOTDIR, "usage", OfInode(dir_nid) + "is no directory"};
  if (name.size() > kNameMax) return {ENAMETOOLONG, "usage", "name is longer than 255 bytes"};
  if (dir.dot_omitted && name == ".") {
    *out = {dir_nid, kTypeDirectory, "."};
    return Status::Ok();
  }

  // The last block whose first name is not above `name`.
  uint64_t low = 0, high = dir.attr.size == 0 ? 0 : ((dir.attr.size - 1) >> blkszbits_) + 1;
  DirBlock block;
  while (low < high) {
    const uint64_t mid = low + (high - low) / 2;
    DirBlock candidate;
    if (Status s = p_->ReadDirBlock(dir, mid, &candidate); !s.ok()) return s;
    Dirent first;
    if (!EntryAt(candidate, 0, &first)) return BadBlock(dir_nid, mid);
    if (first.name <= name) {
      block = candidate;
      low = mid + 1;
    } else {
      high = mid;
    }
  }

  uint32_t from = 0, to = block.count;
  while (from < to) {
    const uint32_t mid = from + (to - from) / 2;
    Dirent entry;
    if (!EntryAt(block, mid, &entry)) return BadBlock(dir_nid, low - 1);
    const int order = entry.name.compare(name);
    if (order == 0) {
      *out = entry;
      return Status::Ok();
    }
    if (order < 0) {
      from = mid + 1;
    } else {
      to = mid;
    }
  }
  return absent();
}

Status Image::ReadDir(uint64_t dir_nid, uint64_t cookie,
                      const std::function<bool(const Dirent&, uint64_t)>& emit) const {
  Inode dir;
  if (Status s = p_->ReadInode(dir_nid, &dir); !s.ok()) return s;
  if (!S_ISDIR(dir.attr.mode)) return {ENOTDIR, "usage", OfInode(dir_nid) + "is no directory"};
  const uint64_t size = dir.attr.size;

  while (cookie < size) {
    const uint64_t index = cookie >> blkszbits_;
    const uint64_t start = index << blkszbits_;
    DirBlock block;
    if (Status s = p_->ReadDirBlock(dir, index, &block); !s.ok()) return s;
    const uint64_t next_block = start + block.size;
    // A cookie that no entry gave is moved up to the next entry, as after seekdir(3) with a stale position.
    for (uint64_t i = (cookie - start + kDirentSize - 1) / kDirentSize; i < block.count; i++) {
      Dirent entry;
      if (!EntryAt(block, static_cast<uint32_t>(i), &entry) || HasForbiddenByte(entry.name))
        return BadBlock(dir_nid, index);
      if (!emit(entry, i + 1 < block.count ? start + (i + 1) * kDirentSize : next_block)) return Status::Ok();
    }
    cookie = next_block;
  }
  if (dir.dot_omitted && cookie == size) emit({dir_nid, kTypeDirectory, "."}, size + 1);
  return Status::Ok();
}

}  // namespace ocifs::erofs
