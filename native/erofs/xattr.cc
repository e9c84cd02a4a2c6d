// Extended attributes: the inline area of an inode, the shared area, long name prefixes. The per-inode name filter is
// not consulted: the areas are small and mapped, and a wrong filter must not hide an attribute.
#include <array>

#include "image_private.h"

namespace ocifs::erofs {
namespace {

// Header of the inline area, then the ids of shared entries, then inline entries.
constexpr int kSharedCountAt = 4;
constexpr uint32_t kSharedIdSize = 4;
constexpr size_t kXattrNameMax = 255;  // Linux XATTR_NAME_MAX

// By e_name_index. 0 = the entry holds the whole name.
constexpr std::array<std::string_view, 7> kShortPrefixes = {
    "", "user.", "system.posix_acl_access", "system.posix_acl_default", "trusted.", "lustre.", "security."};

// A name in its stored parts, so that comparing needs no allocation.
struct Entry {
  std::string_view prefix, infix, suffix;
  std::string_view value;

  size_t name_size() const { return prefix.size() + infix.size() + suffix.size(); }
  bool Is(std::string_view name) const {
    return name.size() == name_size() && name.substr(0, prefix.size()) == prefix &&
           name.substr(prefix.size(), infix.size()) == infix && name.substr(prefix.size() + infix.size()) == suffix;
  }
};

Status BadXattrs(uint64_t nid) { return Status::Corrupt(OfInode(nid) + "xattrs are malformed"); }

// The entry at `pos`, of at most `room` bytes. `*used` is its size with padding. Names are not checked for content.
bool ParseEntry(const Image::Private& p, uint64_t pos, uint64_t room, Entry* out, uint64_t* used) {
  const uint8_t* e = room >= kXattrEntrySize ? p.Span(pos, kXattrEntrySize) : nullptr;
  if (e == nullptr) return false;
  const uint32_t name_size = e[0], index = e[1], value_size = Le16(e + 2);
  const uint64_t length = kXattrEntrySize + name_size + value_size;
  if (length > room || p.Span(pos, length) == nullptr) return false;
  if (index & kXattrLongPrefix) {
    const uint32_t n = index & ~uint32_t{kXattrLongPrefix};
    if (n >= p.prefixes.size()) return false;
    out->prefix = kShortPrefixes[p.prefixes[n].base];
    out->infix = p.prefixes[n].infix;
  } else {
    if (index >= kShortPrefixes.size()) return false;
    out->prefix = kShortPrefixes[index];
    out->infix = {};
  }
  const char* name = reinterpret_cast<const char*>(e + kXattrEntrySize);
  out->suffix = {name, name_size};
  out->value = {name + name_size, value_size};
  *used = (length + 3) & ~uint64_t{3};
  return true;
}

// Calls `visit(entry)` for each attribute until it returns false.
template <typename Visit>
Status ForEach(const Image::Private& p, const Inode& inode, Visit visit) {
  if (inode.xattr_size == 0) return Status::Ok();
  const uint64_t area = inode.pos + inode.inode_size;  // ReadInode has checked that the area is mapped
  const uint32_t shared = p.map[area + kSharedCountAt];
  const uint64_t header = kXattrHeaderSize + shared * kSharedIdSize;
  if (header > inode.xattr_size) return BadXattrs(inode.attr.nid);

  Entry entry;
  uint64_t used = 0;
  for (uint64_t at = header; at < inode.xattr_size; at += used) {
    if (!ParseEntry(p, area + at, inode.xattr_size - at, &entry, &used)) return BadXattrs(inode.attr.nid);
    if (entry.name_size() == 0) continue;  // zero padding
    if (!visit(entry)) return Status::Ok();
  }
  for (uint32_t i = 0; i < shared; i++) {
    const uint64_t id = Le32(p.map + area + kXattrHeaderSize + i * kSharedIdSize);
    if (!ParseEntry(p, p.xattr_pos + id * kSharedIdSize, p.size, &entry, &used) || entry.name_size() == 0)
      return BadXattrs(inode.attr.nid);
    if (!visit(entry)) return Status::Ok();
  }
  return Status::Ok();
}

}  // namespace

// A table of u16 size, u8 base index, infix, each padded to 4 bytes; in the packed inode when there is one and the
// superblock does not say that the table is plain.
Status Image::Private::LoadPrefixes(uint64_t start, uint32_t count) {
  if (count == 0) return Status::Ok();
  const Status bad = Status::Corrupt("EROFS image: table of long xattr prefixes is malformed");
  Inode packed;
  const bool in_packed = (incompat & kIncompatFragments) && packed_nid != 0 && !(compat & kCompatPlainXattrPrefixes);
  if (in_packed) {
    if (Status s = ReadInode(packed_nid, &packed); !s.ok()) return s;
  }
  uint64_t at = start;
  std::string bytes;
  const auto read = [&](uint64_t length) -> Status {
    bytes.clear();
    while (bytes.size() < length) {
      uint64_t part = length - bytes.size();
      const uint8_t* p = nullptr;
      if (in_packed) {
        if (at >= packed.attr.size || part > packed.attr.size - at) return bad;
        part = std::min(part, block_size() - at % block_size());
        if (Status s = ReadInPlace(packed, at, part, &p); !s.ok()) return s;
      } else if (p = Span(at, part); p == nullptr) {
        return bad;
      }
      bytes.append(reinterpret_cast<const char*>(p), part);
      at += part;
    }
    return Status::Ok();
  };
  for (uint32_t i = 0; i < count; i++) {
    at = (at + 3) & ~uint64_t{3};
    if (Status s = read(2); !s.ok()) return s;
    const uint64_t length = Le16(reinterpret_cast<const uint8_t*>(bytes.data()));
    if (length < 1 || length > kXattrNameMax + 1) return bad;
    if (Status s = read(length); !s.ok()) return s;
    const auto base = static_cast<uint8_t>(bytes[0]);
    if (base >= kShortPrefixes.size()) return bad;
    prefixes.push_back({base, bytes.substr(1)});
  }
  return Status::Ok();
}

Status Image::VisitXattrs(uint64_t nid, const std::function<void(std::string_view, std::string_view)>& visit) const {
  Inode inode;
  if (Status s = p_->ReadInode(nid, &inode); !s.ok()) return s;
  bool possible = true;
  std::string name;
  Status s = ForEach(*p_, inode, [&](const Entry& e) {
    possible = e.name_size() <= kXattrNameMax && e.suffix.find('\0') == e.suffix.npos && e.infix.find('\0') == e.infix.npos;
    if (!possible) return false;
    name.assign(e.prefix).append(e.infix).append(e.suffix);
    visit(name, e.value);
    return true;
  });
  return s.ok() && !possible ? BadXattrs(nid) : s;
}

Status Image::ListXattr(uint64_t nid, std::string* out) const {
  out->clear();
  return VisitXattrs(nid, [&](std::string_view name, std::string_view) { out->append(name).push_back('\0'); });
}

Status Image::GetXattr(uint64_t nid, std::string_view name, std::string* out) const {
  Inode inode;
  if (Status s = p_->ReadInode(nid, &inode); !s.ok()) return s;
  bool found = false;
  Status s = ForEach(*p_, inode, [&](const Entry& e) {
    found = e.Is(name);
    if (found) out->assign(e.value);
    return !found;
  });
  if (!s.ok() || found) return s;
  return {ENODATA, "not-found", "no such xattr"};
}

}  // namespace ocifs::erofs
