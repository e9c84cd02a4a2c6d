// Writes a planned tarindex piece by piece, but for superblock and device table, for which it leaves zeros.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "plan.h"

namespace ocifs::erofs {

class TarindexWriter {
 public:
  // Tree and plan must not change while it writes.
  TarindexWriter(const TreeColumns& tree, const TarindexPlan& plan) : tree_(tree), plan_(plan) {}

  // The next bytes, 256 KiB or little more, at most one file's chunks or one block beyond; empty after the last. `device_blocks`: of each
  // slot; a file that ends behind its device is `internal`.
  Status Next(const std::vector<uint64_t>& device_blocks, std::vector<uint8_t>* piece);

 private:
  uint8_t* Reserve(uint64_t bytes);
  void Append(const uint8_t* bytes, uint64_t size);
  void PadTo(uint64_t offset);
  Status WriteInode(uint32_t inode, const std::vector<uint64_t>& device_blocks);
  void WriteHead(uint32_t inode, uint64_t xattr_bytes);
  uint32_t DataWord(uint32_t inode) const;
  bool Needs48Bits(uint32_t inode) const;
  Status WriteChunks(uint32_t inode, const std::vector<uint64_t>& device_blocks);
  void WriteDirectoryBlock(uint32_t inode, size_t start, size_t end, uint8_t* out);
  bool WriteNextBlock(uint32_t inode);

  const TreeColumns& tree_;
  const TarindexPlan& plan_;
  std::vector<uint8_t> out_;
  uint64_t taken_ = 0;
  uint32_t serial_ = 0;
  size_t next_inode_ = 0, next_blocks_ = 0, next_child_ = 0;  // what is to be written next: inodes, then blocks of inodes
  bool in_directory_ = false, done_ = false;
};

}  // namespace ocifs::erofs
