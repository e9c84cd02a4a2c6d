// Makes files, directories and links of a tree below one directory, many for each call. The caller plans: every path is made
// once, directories before what is in them, and their own metadata last, since what is made in them changes their times.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "clone.h"

namespace ocifs::content {

// Kinds of records; src/native/tree-records.ts writes them.
enum class TreeOp : uint8_t {
  kDirectory = 1,          // its own permissions, and ours until kDirectoryMetadata
  kDirectoryMetadata = 2,
  kFileFromRanges = 3,     // link: u64 file offset, u64 size, u64 source offset each; the rest is holes
  kFileFromName = 4,       // all of the file `link` below a source directory
  kSymlink = 5,            // link: target
  kNode = 6,               // device or FIFO, by mode
  kHardlink = 7,           // link: path of the first name
  kMoveFrom = 8,           // `link` below a source directory gets this name and metadata
};

struct TreeTarget {
  int root = -1;
  // Descriptors that records name by their position: files for ranges, directories for names.
  std::vector<int> sources;
  // Owners, and xattrs beyond user.*, can be set.
  bool privileged = false;
};

struct TreeCounts : Counts {
  uint64_t entries = 0;
  // Owners or xattrs that were left out for want of privileges.
  uint64_t skipped = 0;
};

// Applies `size` bytes of records in order; stops at the first failure, whose message names the path.
Status ApplyTreeOps(const TreeTarget& target, const uint8_t* records, size_t size, TreeCounts* counts);

}  // namespace ocifs::content
