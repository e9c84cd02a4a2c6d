// Where everything of a tarindex goes: its inodes in depth-first order of the directories, then blocks of directories and long links. Input is a
// tree of names over inodes in columns, as src/erofs keeps them; the tree is ours, so its numbers are trusted.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "../base/status.h"

namespace ocifs::erofs {

// Byte strings under numbers counted from 0.
struct ByteStrings {
  const uint8_t* bytes;
  const double* offsets;
  const uint32_t* lengths;
};

// One piece of a file: [offset, offset + size) of it is at `device_offset` of its device.
struct DataPiece {
  double offset, size, device_offset;
};

struct TreeColumns {
  // By entry: a name in a directory.
  uint32_t entry_count;
  const uint8_t* names;
  const uint32_t* name_offset;
  const uint8_t* name_bytes;
  const int32_t *parent, *inode, *first_child, *next_sibling;  // inode -1: absent
  // By inode.
  uint32_t inode_count;
  const uint16_t* mode;
  const uint32_t *uid, *gid;
  const double* mtime_seconds;
  const uint32_t* mtime_nanoseconds;
  const double *size, *data;  // data of a file: where its only piece begins, or -1; of a link: its target's number; of a device: rdev
  const uint16_t* device;
  const int32_t* xattrs;  // number of the area, or -1
  ByteStrings targets, xattr_areas;
  // Files of several pieces or holes: `piece_count` triples from `first_piece` on.
  struct Pieces {
    const DataPiece* first;
    size_t count;
  };
  std::unordered_map<uint32_t, Pieces> pieces;
};

struct PlanLimits {
  uint64_t tarindex_bytes, sparse_chunks;
};

constexpr uint32_t kNoBlock = 0xffffffff;
// Stand for `.` and `..` among the entries of a directory.
constexpr int32_t kDotEntry = -1, kDotDotEntry = -2;

struct PlannedDirectory {
  int32_t entry;
  size_t child_start, child_end;  // in TarindexPlan::children
  size_t tail_start;              // where the last block begins there
  uint64_t bytes;
};

struct TarindexPlan {
  std::vector<uint32_t> order;  // reachable inodes as they stand on disk
  // By inode.
  std::vector<uint32_t> nids;  // 0: without a name
  std::vector<uint32_t> link_counts, start_blocks;
  std::vector<uint8_t> layouts, extended, chunk_bits;
  std::vector<uint32_t> directory_numbers;  // of a directory: its place in `directories`
  std::vector<PlannedDirectory> directories;
  std::vector<int32_t> children;  // entries, sorted, `.` and `..` included, grouped by directory
  uint64_t inode_area_end = 0, size = 0;
  int64_t epoch_seconds = 0;
  uint32_t epoch_nanoseconds = 0;
  bool has_xattrs = false;

  const PlannedDirectory& DirectoryOf(uint32_t inode) const { return directories[directory_numbers[inode]]; }

  // `device_count` slots stand before the first inode. Errors: `limit`.
  static Status Make(const TreeColumns& tree, uint64_t device_count, const PlanLimits& limits, TarindexPlan* plan);
};

// The directory block that begins with child `start`: as many of [start, end) as fit, and the bytes that they take.
size_t DirectoryBlockEnd(const TreeColumns& tree, const std::vector<int32_t>& children, size_t start, size_t end, size_t* used);

inline size_t NameBytes(const TreeColumns& tree, int32_t child) {
  return child == kDotEntry ? 1 : child == kDotDotEntry ? 2 : tree.name_bytes[child];
}

// Bytes of an entry's name.
inline const uint8_t* NameOf(const TreeColumns& tree, int32_t entry) { return tree.names + tree.name_offset[entry]; }

// The pieces of a file; `whole` is room for one.
TreeColumns::Pieces PiecesOf(const TreeColumns& tree, uint32_t inode, DataPiece* whole);

inline uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace ocifs::erofs
