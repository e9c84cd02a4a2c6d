#include "append.h"

#include <sys/stat.h>

#include <cstring>

#include "../tar/columns.h"
#include "../tar/header_scan.h"

namespace ocifs::erofs {

namespace {

using tar::PlainType;

constexpr int32_t kNone = -1, kRoot = 0;
constexpr double kHeaderBytes = 512;

// As in src/erofs/byte-arena.ts: both fill and search the same tables.
uint32_t HashBytes(const uint8_t* bytes, size_t size, uint32_t hash) {
  for (size_t i = 0; i < size; i++) {
    hash = (hash ^ bytes[i]) * 0x01000193u;
    hash ^= hash >> 13;
  }
  hash *= 0x85ebca6bu;
  return hash ^ (hash >> 16);
}

class Appender {
 public:
  Appender(GrowingTree* tree, const ScannedEntries& entries) : tree_(*tree), entries_(entries) {}

  size_t Run(size_t from) {
    for (size_t i = from; i < entries_.count; i++)
      if (!Append(i)) return i;
    return entries_.count;
  }

 private:
  double Number(size_t entry, tar::Column column) const { return entries_.numbers[entry * tar::kColumnCount + column]; }
  size_t At(size_t entry, tar::Column column) const { return static_cast<size_t>(Number(entry, column)); }

  // The slot of a name in a directory: its entry's, or the free one where it would go.
  size_t SlotOf(int32_t parent, const uint8_t* name, size_t bytes) const {
    const size_t mask = tree_.slot_count - 1;
    size_t slot = HashBytes(name, bytes, (tree_.hash_seed ^ static_cast<uint32_t>(parent)) * 0x9e3779b1u) & mask;
    for (;; slot = (slot + 1) & mask) {
      const int32_t entry = tree_.slots[slot];
      if (entry < 0 || (tree_.parent[entry] == parent && tree_.name_bytes[entry] == bytes &&
                        std::memcmp(tree_.names + tree_.name_offset[entry], name, bytes) == 0))
        return slot;
    }
  }

  // The directory of path [at, end), which ends with a slash or is empty; kNone unless all of it is directories that are there.
  int32_t DirectoryOf(const uint8_t* at, const uint8_t* end) const {
    int32_t directory = kRoot;
    while (at < end) {
      const auto* const slash = static_cast<const uint8_t*>(std::memchr(at, '/', static_cast<size_t>(end - at)));
      if (slash == nullptr) return kNone;
      directory = tree_.slots[SlotOf(directory, at, static_cast<size_t>(slash - at))];
      if (directory < 0 || tree_.inode[directory] < 0 || !S_ISDIR(tree_.mode[tree_.inode[directory]])) return kNone;
      at = slash + 1;
    }
    return directory;
  }

  bool Append(size_t i) {
    const auto type = static_cast<PlainType>(At(i, tar::kType));
    const uint8_t* const name = entries_.names + At(i, tar::kName);
    const size_t bytes = At(i, tar::kPathEnd) - At(i, tar::kName);
    if (type == PlainType::kHardlink || tree_.entry_count == tree_.entry_capacity || tree_.inode_count == tree_.inode_capacity ||
        tree_.names_capacity - tree_.names_used < bytes || (tree_.entry_count + 1) * 2 > tree_.slot_count)
      return false;
    int32_t parent = last_parent_;
    if (parent == kNone || Number(i, tar::kSharesDirectory) == 0) parent = DirectoryOf(entries_.names + At(i, tar::kPath), name);
    last_parent_ = parent;
    if (parent == kNone || tree_.depth[parent] >= tree_.maximum_depth) return false;
    const size_t slot = SlotOf(parent, name, bytes);
    if (tree_.slots[slot] >= 0) return false;
    double target = 0;
    if (type == PlainType::kSymlink && !Intern(entries_.names + At(i, tar::kLink), At(i, tar::kLinkEnd) - At(i, tar::kLink), &target)) return false;
    AddEntry(slot, parent, name, bytes, AddInode(i, type, target));
    return true;
  }

  void AddEntry(size_t slot, int32_t parent, const uint8_t* name, size_t bytes, int32_t inode) {
    const size_t entry = tree_.entry_count++;
    tree_.name_offset[entry] = static_cast<uint32_t>(tree_.names_used);
    tree_.name_bytes[entry] = static_cast<uint8_t>(bytes);
    std::memcpy(tree_.names + tree_.names_used, name, bytes);
    tree_.names_used += bytes;
    tree_.parent[entry] = parent;
    tree_.depth[entry] = static_cast<uint16_t>(tree_.depth[parent] + 1);
    tree_.inode[entry] = inode;
    tree_.first_child[entry] = kNone;
    tree_.next_sibling[entry] = tree_.first_child[parent];
    tree_.first_child[parent] = static_cast<int32_t>(entry);
    tree_.slots[slot] = static_cast<int32_t>(entry);
  }

  int32_t AddInode(size_t i, PlainType type, double target) {
    const size_t inode = tree_.inode_count++;
    const double size = Number(i, tar::kSize);
    const auto permissions = static_cast<uint16_t>(Number(i, tar::kMode));
    tree_.uid[inode] = static_cast<uint32_t>(Number(i, tar::kUid));
    tree_.gid[inode] = static_cast<uint32_t>(Number(i, tar::kGid));
    tree_.mtime_seconds[inode] = Number(i, tar::kMtime);
    tree_.mtime_nanoseconds[inode] = 0;
    tree_.xattrs[inode] = kNone;
    if (type == PlainType::kDirectory) {
      tree_.mode[inode] = S_IFDIR | permissions;
    } else if (type == PlainType::kSymlink) {
      tree_.mode[inode] = S_IFLNK | permissions;
      tree_.size[inode] = Number(i, tar::kLinkEnd) - Number(i, tar::kLink);
      tree_.data[inode] = target;
    } else {
      tree_.mode[inode] = S_IFREG | permissions;
      tree_.size[inode] = size;
      tree_.data[inode] = size > 0 ? entries_.base + Number(i, tar::kHeaderAt) + kHeaderBytes : kNone;
      tree_.device[inode] = entries_.device;
    }
    return static_cast<int32_t>(inode);
  }

  // The number of these bytes among the targets; false when there is no room for new ones.
  bool Intern(const uint8_t* bytes, size_t size, double* number) {
    GrowingStrings& strings = tree_.targets;
    const size_t mask = strings.slot_count - 1;
    size_t slot = HashBytes(bytes, size, tree_.hash_seed) & mask;
    for (; strings.slots[slot] >= 0; slot = (slot + 1) & mask) {
      const auto id = static_cast<size_t>(strings.slots[slot]);
      if (strings.lengths[id] != size || std::memcmp(strings.bytes + static_cast<size_t>(strings.offsets[id]), bytes, size) != 0) continue;
      *number = static_cast<double>(id);
      return true;
    }
    if (strings.count == strings.capacity || strings.bytes_capacity - strings.bytes_used < size) return false;
    const size_t id = strings.count++;
    std::memcpy(strings.bytes + strings.bytes_used, bytes, size);
    strings.offsets[id] = static_cast<double>(strings.bytes_used);
    strings.lengths[id] = static_cast<uint32_t>(size);
    strings.bytes_used += size;
    strings.slots[slot] = static_cast<int32_t>(id);
    *number = static_cast<double>(id);
    return true;
  }

  GrowingTree& tree_;
  const ScannedEntries& entries_;
  int32_t last_parent_ = kNone;
};

}  // namespace

size_t AppendPlain(GrowingTree* tree, const ScannedEntries& entries, size_t from) { return Appender(tree, entries).Run(from); }

}  // namespace ocifs::erofs
