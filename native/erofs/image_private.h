// What the files of the reader share. Positions are bytes in the mapping. Nothing here trusts a number of the image:
// `Span` is the only way to a byte of it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "format.h"
#include "image.h"

namespace ocifs::erofs {

// An inode as parsed and checked; says nothing about where its data lies being sensible.
struct Inode {
  Attr attr;
  uint64_t pos = 0;          // of the inode itself
  uint32_t inode_size = 0;   // 32 or 64
  uint32_t xattr_size = 0;   // inline xattr area right after the inode
  uint8_t layout = 0;
  bool dot_omitted = false;  // a directory without a stored "."
  bool no_blocks = false;    // PLAIN without blocks: all of it is a hole
  uint64_t start_block = 0;  // PLAIN, INLINE
  uint32_t chunk_format = 0;
  uint8_t chunk_bits = 0;

  // Where the inline tail or the chunk table begins. Cannot overflow: `pos` lies in the mapping.
  uint64_t body_end() const { return pos + inode_size + xattr_size; }
};

// One contiguous run of an inode's data.
struct Piece {
  ExtentKind kind = ExtentKind::kHole;
  uint32_t device = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct LongPrefix {
  uint8_t base = 0;
  std::string infix;
};

// One block of a directory, checked as far as its entry table.
struct DirBlock {
  const uint8_t* data = nullptr;
  uint32_t size = 0;   // bytes that belong to the directory
  uint32_t count = 0;  // entries
};

struct Image::Private {
  explicit Private(const std::vector<DeviceSlot>& slots) : devices(slots) {}

  const uint8_t* map = nullptr;
  uint64_t size = 0;
  uint8_t block_bits = 9;
  uint32_t compat = 0, incompat = 0;
  uint64_t meta_pos = 0;   // of nid 0
  uint64_t xattr_pos = 0;  // of shared xattr 0
  int64_t epoch_sec = 0;
  uint32_t fixed_nsec = 0;
  uint64_t packed_nid = 0;
  uint32_t device_id_mask = 0;
  const std::vector<DeviceSlot>& devices;  // the Image's
  std::vector<uint32_t> flat_devices;  // slot numbers (1-based) that have a flat address, by that address
  std::vector<LongPrefix> prefixes;

  uint64_t block_size() const { return uint64_t{1} << block_bits; }
  // The `length` bytes at `pos`, or nullptr when they are not all in the mapping.
  const uint8_t* Span(uint64_t pos, uint64_t length) const {
    return length <= size && pos <= size - length ? map + pos : nullptr;
  }

  Status ReadInode(uint64_t nid, Inode* out) const;
  // The run of data at `offset` < size: at most up to the end of its chunk or of the inode.
  Status MapPiece(const Inode& inode, uint64_t offset, Piece* out) const;
  // The bytes [offset, offset + length) of an inode whose data lies in the mapping, in one piece.
  Status ReadInPlace(const Inode& inode, uint64_t offset, uint64_t length, const uint8_t** out) const;
  Status ReadDirBlock(const Inode& dir, uint64_t index, DirBlock* out) const;
  Status LoadPrefixes(uint64_t start, uint32_t count);

 private:
  Status MapFlat(const Inode& inode, uint64_t offset, Piece* out) const;
  Status MapChunk(const Inode& inode, uint64_t offset, Piece* out) const;
  Status Resolve(const Inode& inode, uint32_t device, uint64_t block, uint64_t skip, uint64_t length, Piece* out) const;
};

// "EROFS inode 40: ..." for messages.
inline std::string OfInode(uint64_t nid) { return "EROFS inode " + std::to_string(nid) + ": "; }

}  // namespace ocifs::erofs
