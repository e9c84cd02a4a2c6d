// Adds entries of a tar to a tree of names in columns (src/erofs/file-tree.ts), as far as it takes no decision: a new name, in directories that
// are all there. At anything else, or when a column is full, it stops, and src/index/tar-tree.ts goes on.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ocifs::erofs {

// Columns that grow; what is used of them comes back.
struct GrowingStrings {
  uint8_t* bytes;
  size_t bytes_capacity, bytes_used;
  double* offsets;
  uint32_t* lengths;
  size_t capacity, count;
  int32_t* slots;  // open addressing over the bytes, -1: free; a power of two
  size_t slot_count;
};

struct GrowingTree {
  uint8_t* names;
  size_t names_capacity, names_used;
  size_t entry_capacity, entry_count;
  uint32_t* name_offset;
  uint8_t* name_bytes;
  int32_t *parent, *inode, *first_child, *next_sibling;
  uint16_t* depth;
  int32_t* slots;  // open addressing over (parent, name), at most half full
  size_t slot_count;
  size_t inode_capacity, inode_count;
  uint16_t* mode;
  uint32_t *uid, *gid;
  double* mtime_seconds;
  uint32_t* mtime_nanoseconds;
  double *size, *data;
  uint16_t* device;
  int32_t* xattrs;
  GrowingStrings targets;
  uint32_t hash_seed;
  uint16_t maximum_depth;
};

// What is to be added: `count` entries as native/tar/binding.cc stores them, all of one device on which byte 0 of the scanned bytes is `base`.
struct ScannedEntries {
  const double* numbers;
  const uint8_t* names;
  size_t count;
  double base;
  uint16_t device;
};

// Adds entries from `from` on and gives the first that it did not add; `entries.count` when there is none.
size_t AppendPlain(GrowingTree* tree, const ScannedEntries& entries, size_t from);

}  // namespace ocifs::erofs
