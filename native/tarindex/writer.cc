#include "writer.h"

#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <string>

#include "../erofs/format.h"
#include "format.h"

namespace ocifs::erofs {

namespace {

constexpr size_t kPieceBytes = 256 << 10;
constexpr uint32_t kXattrUnit = 4;

template <class T>
void StoreLe(uint8_t* p, T value) {
  static_assert(std::endian::native == std::endian::little, "this build writes EROFS on little-endian machines only");
  std::memcpy(p, &value, sizeof value);
}

uint8_t DirentType(uint16_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return 1;
    case S_IFDIR: return kTypeDirectory;
    case S_IFCHR: return 3;
    case S_IFBLK: return 4;
    case S_IFIFO: return 5;
    case S_IFSOCK: return 6;
    case S_IFLNK: return 7;
    default: return 0;
  }
}

}  // namespace

Status TarindexWriter::Next(const std::vector<uint64_t>& device_blocks, std::vector<uint8_t>* piece) {
  piece->clear();
  if (done_) return Status::Ok();
  out_.clear();
  if (taken_ == 0) PadTo(kSuperOffset + kSuperSize + device_blocks.size() * kDeviceSlotSize);
  while (next_inode_ < plan_.order.size() && out_.size() < kPieceBytes) {
    const Status s = WriteInode(plan_.order[next_inode_++], device_blocks);
    if (!s.ok()) return s;
  }
  if (next_inode_ == plan_.order.size() && out_.size() < kPieceBytes) {
    while (next_blocks_ < plan_.order.size() && out_.size() < kPieceBytes)
      if (!WriteNextBlock(plan_.order[next_blocks_])) next_blocks_++;
    if (next_blocks_ == plan_.order.size()) {
      PadTo(plan_.size);
      done_ = true;
    }
  }
  taken_ += out_.size();
  piece->swap(out_);
  return Status::Ok();
}

uint8_t* TarindexWriter::Reserve(uint64_t bytes) {
  const size_t at = out_.size();
  if (out_.capacity() == 0) out_.reserve(kPieceBytes + (kPieceBytes >> 2));
  out_.resize(at + bytes);
  return out_.data() + at;
}

void TarindexWriter::Append(const uint8_t* bytes, uint64_t size) {
  uint8_t* const at = Reserve(size);
  if (size > 0) std::memcpy(at, bytes, size);
}

void TarindexWriter::PadTo(uint64_t offset) { Reserve(offset - (taken_ + out_.size())); }

// Inode, xattrs, then the inline tail or the chunk indexes.
Status TarindexWriter::WriteInode(uint32_t inode, const std::vector<uint64_t>& device_blocks) {
  PadTo(static_cast<uint64_t>(plan_.nids[inode]) << kSlotBits);
  const int32_t area = tree_.xattrs[inode];
  const uint64_t area_bytes = area < 0 ? 0 : tree_.xattr_areas.lengths[area];
  WriteHead(inode, area_bytes);
  if (area_bytes > 0) Append(tree_.xattr_areas.bytes + static_cast<uint64_t>(tree_.xattr_areas.offsets[area]), area_bytes);
  const uint16_t mode = tree_.mode[inode];
  if (S_ISREG(mode) && tree_.size[inode] > 0) return WriteChunks(inode, device_blocks);
  if (plan_.layouts[inode] != kLayoutInline) return Status::Ok();
  if (S_ISLNK(mode)) {
    const auto target = static_cast<size_t>(tree_.data[inode]);
    Append(tree_.targets.bytes + static_cast<uint64_t>(tree_.targets.offsets[target]), tree_.targets.lengths[target]);
  } else {
    uint8_t* const tail = Reserve(plan_.DirectoryOf(inode).bytes % kTarindexBlockBytes);
    WriteDirectoryBlock(inode, plan_.DirectoryOf(inode).tail_start, plan_.DirectoryOf(inode).child_end, tail);
  }
  return Status::Ok();
}

void TarindexWriter::WriteHead(uint32_t inode, uint64_t xattr_bytes) {
  const bool extended = plan_.extended[inode] != 0;
  uint8_t* const at = Reserve(extended ? kExtendedInodeSize : kCompactInodeSize);
  const uint16_t mode = tree_.mode[inode];
  const uint64_t size = S_ISDIR(mode) ? plan_.DirectoryOf(inode).bytes : static_cast<uint64_t>(tree_.size[inode]);
  StoreLe<uint16_t>(at, static_cast<uint16_t>((extended ? kInodeExtended : 0) | plan_.layouts[inode] << 1));
  // The header counts as one unit, then 4 bytes each.
  StoreLe<uint16_t>(at + 2, static_cast<uint16_t>(xattr_bytes == 0 ? 0 : (xattr_bytes - kXattrHeaderSize) / kXattrUnit + 1));
  StoreLe<uint16_t>(at + 4, mode);
  StoreLe<uint32_t>(at + 16, DataWord(inode));
  StoreLe<uint32_t>(at + 20, ++serial_);
  if (!extended) {
    StoreLe<uint16_t>(at + 6, static_cast<uint16_t>(plan_.link_counts[inode]));
    StoreLe<uint32_t>(at + 8, static_cast<uint32_t>(size));
    StoreLe<uint16_t>(at + 24, static_cast<uint16_t>(tree_.uid[inode]));
    StoreLe<uint16_t>(at + 26, static_cast<uint16_t>(tree_.gid[inode]));
    return;
  }
  StoreLe<uint64_t>(at + 8, size);
  StoreLe<uint32_t>(at + 24, tree_.uid[inode]);
  StoreLe<uint32_t>(at + 28, tree_.gid[inode]);
  StoreLe<int64_t>(at + 32, static_cast<int64_t>(tree_.mtime_seconds[inode]));
  StoreLe<uint32_t>(at + 40, tree_.mtime_nanoseconds[inode]);
  StoreLe<uint32_t>(at + 44, plan_.link_counts[inode]);
}

// The chunk format of a file with data, the device number, or the first block.
uint32_t TarindexWriter::DataWord(uint32_t inode) const {
  const uint16_t mode = tree_.mode[inode];
  if (S_ISCHR(mode) || S_ISBLK(mode)) return static_cast<uint32_t>(tree_.data[inode]);
  if (S_ISDIR(mode) || S_ISLNK(mode)) return plan_.start_blocks[inode];
  if (!S_ISREG(mode) || !(tree_.size[inode] > 0)) return 0;
  return (plan_.chunk_bits[inode] - kTarindexBlockBits) | kChunkIndexes | (Needs48Bits(inode) ? kChunk48Bit : 0);
}

// The highest address of 32 bits means a hole.
bool TarindexWriter::Needs48Bits(uint32_t inode) const {
  DataPiece whole;
  const TreeColumns::Pieces pieces = PiecesOf(tree_, inode, &whole);
  if (pieces.count == 0) return false;
  const DataPiece& last = pieces.first[pieces.count - 1];
  const double end = last.device_offset + last.size + std::ldexp(1.0, plan_.chunk_bits[inode]);
  return end > static_cast<double>(kBlockMask32 * kTarindexBlockBytes);
}

Status TarindexWriter::WriteChunks(uint32_t inode, const std::vector<uint64_t>& device_blocks) {
  PadTo(RoundUp(taken_ + out_.size(), kChunkIndexBytes));
  const unsigned bits = plan_.chunk_bits[inode];
  const uint64_t count = (static_cast<uint64_t>(tree_.size[inode]) + (uint64_t{1} << bits) - 1) >> bits;
  const uint16_t device = tree_.device[inode];
  const uint64_t blocks = device >= 1 && device <= device_blocks.size() ? device_blocks[device - 1] : 0;
  DataPiece whole;
  const TreeColumns::Pieces pieces = PiecesOf(tree_, inode, &whole);
  uint8_t* index = Reserve(count * kChunkIndexBytes);
  size_t next = 0;
  for (uint64_t i = 0; i < count; i++, index += kChunkIndexBytes) {
    const uint64_t offset = i << bits;
    const DataPiece* piece = nullptr;
    for (; next < pieces.count; next++) {
      piece = pieces.first + next;
      if (static_cast<uint64_t>(piece->offset + piece->size) > offset) break;
      piece = nullptr;
    }
    if (piece == nullptr || offset < static_cast<uint64_t>(piece->offset)) {
      StoreLe<uint16_t>(index, 0xffff);
      StoreLe<uint32_t>(index + 4, 0xffffffff);
      continue;
    }
    const auto end = static_cast<uint64_t>(piece->device_offset + piece->size);
    if (end > blocks * kTarindexBlockBytes)
      return Status{EIO, "internal", "tarindex: a file ends at byte " + std::to_string(end) + " of device " + std::to_string(device) +
                                         ", which has " + std::to_string(blocks) + " blocks"};
    const uint64_t block = (static_cast<uint64_t>(piece->device_offset) + (offset - static_cast<uint64_t>(piece->offset))) / kTarindexBlockBytes;
    StoreLe<uint16_t>(index, static_cast<uint16_t>(block >> 32));
    StoreLe<uint16_t>(index + 2, device);
    StoreLe<uint32_t>(index + 4, static_cast<uint32_t>(block));
  }
  return Status::Ok();
}

// Dirents (u64 nid, u16 name offset, u8 type) of children [start, end), then their names.
void TarindexWriter::WriteDirectoryBlock(uint32_t inode, size_t start, size_t end, uint8_t* out) {
  const int32_t directory = plan_.DirectoryOf(inode).entry;
  uint64_t name_at = kDirentSize * (end - start);
  uint8_t* dirent = out;
  for (size_t i = start; i < end; i++, dirent += kDirentSize) {
    const int32_t child = plan_.children[i];
    const int32_t entry = child == kDotEntry ? directory : child == kDotDotEntry ? tree_.parent[directory] : child;
    const auto of = static_cast<uint32_t>(tree_.inode[entry]);
    StoreLe<uint64_t>(dirent, plan_.nids[of]);
    StoreLe<uint16_t>(dirent + 8, static_cast<uint16_t>(name_at));
    dirent[10] = DirentType(tree_.mode[of]);
    const size_t bytes = NameBytes(tree_, child);
    if (child < 0)
      std::memset(out + name_at, '.', bytes);
    else
      std::memcpy(out + name_at, NameOf(tree_, child), bytes);
    name_at += bytes;
  }
}

// The next full block of a directory, or all of a symlink's; false when there is none.
bool TarindexWriter::WriteNextBlock(uint32_t inode) {
  const uint16_t mode = tree_.mode[inode];
  if (S_ISLNK(mode)) {
    if (plan_.layouts[inode] != kLayoutPlain || plan_.start_blocks[inode] == kNoBlock) return false;
    const auto target = static_cast<size_t>(tree_.data[inode]);
    PadTo(static_cast<uint64_t>(plan_.start_blocks[inode]) * kTarindexBlockBytes);
    Append(tree_.targets.bytes + static_cast<uint64_t>(tree_.targets.offsets[target]), tree_.targets.lengths[target]);
    PadTo(RoundUp(taken_ + out_.size(), kTarindexBlockBytes));
    return false;
  }
  if (!S_ISDIR(mode)) return false;
  const bool is_inline = plan_.layouts[inode] == kLayoutInline;
  const auto end = plan_.DirectoryOf(inode).child_end;
  const size_t stop = is_inline ? plan_.DirectoryOf(inode).tail_start : end;
  if (!in_directory_) {
    next_child_ = plan_.DirectoryOf(inode).child_start;
    if (next_child_ < stop) PadTo(static_cast<uint64_t>(plan_.start_blocks[inode]) * kTarindexBlockBytes);
  }
  in_directory_ = next_child_ < stop;
  if (!in_directory_) return false;
  size_t used;
  const size_t block_end = DirectoryBlockEnd(tree_, plan_.children, next_child_, end, &used);
  uint8_t* const block = Reserve(kTarindexBlockBytes);
  WriteDirectoryBlock(inode, next_child_, block_end, block);
  next_child_ = block_end;
  return true;
}

}  // namespace ocifs::erofs
