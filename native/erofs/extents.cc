// Where the bytes of an inode lie: PLAIN, INLINE and CHUNK layouts, device slots, the flat address space.
#include <sys/stat.h>

#include <algorithm>

#include "image_private.h"

namespace ocifs::erofs {

// Turns `length` bytes that begin `skip` bytes into block `block` of `device` (0 = the flat address space) into a piece.
Status Image::Private::Resolve(const Inode& inode, uint32_t device, uint64_t block, uint64_t skip, uint64_t length,
                               Piece* out) const {
  uint64_t first = block + (skip >> block_bits);  // no wrap: 48 bits + 54 bits
  if (device == 0 && !flat_devices.empty()) {
    // The last device that begins at or below the first block read.
    auto above = std::upper_bound(flat_devices.begin(), flat_devices.end(), first,
                                  [&](uint64_t b, uint32_t slot) { return b < devices[slot - 1].uniaddr; });
    if (above != flat_devices.begin()) {
      const uint32_t slot = *(above - 1);
      const DeviceSlot& d = devices[slot - 1];
      if (first - d.uniaddr < d.blocks) {
        device = slot;
        first -= d.uniaddr;
      }
    }
  }
  if (device > devices.size())
    return Status::Corrupt(OfInode(inode.attr.nid) + "data lies on device " + std::to_string(device) +
                           ", the image has " + std::to_string(devices.size()));
  const uint64_t limit = device == 0 ? size : devices[device - 1].blocks << block_bits;
  const uint64_t offset = (first << block_bits) + (skip & (block_size() - 1));
  // The first comparison keeps the shift above honest: 48 bits of block and 16 of block size fit into 64.
  if (first > kBlockMask48 || length > limit || offset > limit - length)
    return Status::Corrupt(OfInode(inode.attr.nid) + "data at block " + std::to_string(first) + " of " +
                           (device == 0 ? std::string("the image") : "device " + std::to_string(device)) +
                           " lies past its end");
  *out = {device == 0 ? ExtentKind::kIndex : ExtentKind::kDevice, device, offset, length};
  return Status::Ok();
}

Status Image::Private::MapFlat(const Inode& inode, uint64_t offset, Piece* out) const {
  const uint64_t file_size = inode.attr.size;
  if (inode.no_blocks) {
    *out = {ExtentKind::kHole, 0, 0, file_size - offset};
    return Status::Ok();
  }
  const uint64_t blocks = ((file_size - 1) >> block_bits) + 1;  // offset < size, so size > 0
  const uint64_t tail_at = inode.layout == kLayoutInline ? (blocks - 1) << block_bits : file_size;
  if (offset < tail_at) return Resolve(inode, 0, inode.start_block, offset, tail_at - offset, out);

  const uint64_t tail_pos = inode.body_end();
  const uint64_t tail_size = file_size - tail_at;
  if ((tail_pos & (block_size() - 1)) + tail_size > block_size())
    return Status::Corrupt(OfInode(inode.attr.nid) + "inline data crosses a block boundary");
  if (!Span(tail_pos, tail_size)) return Status::Corrupt(OfInode(inode.attr.nid) + "inline data lies outside the image");
  *out = {ExtentKind::kIndex, 0, tail_pos + (offset - tail_at), file_size - offset};
  return Status::Ok();
}

Status Image::Private::MapChunk(const Inode& inode, uint64_t offset, Piece* out) const {
  const bool indexes = inode.chunk_format & kChunkIndexes;
  const uint64_t unit = indexes ? 8 : 4;
  const uint64_t nr = offset >> inode.chunk_bits;  // below 2^54: a chunk has at least 512 bytes
  const uint8_t* p = Span(((inode.body_end() + unit - 1) & ~(unit - 1)) + nr * unit, unit);
  if (p == nullptr)
    return Status::Corrupt(OfInode(inode.attr.nid) + "chunk " + std::to_string(nr) + " has no entry in the image");

  const uint64_t skip = offset & ((uint64_t{1} << inode.chunk_bits) - 1);
  const uint64_t length = std::min(inode.attr.size - offset, (uint64_t{1} << inode.chunk_bits) - skip);
  const uint64_t mask = indexes && (inode.chunk_format & kChunk48Bit) ? kBlockMask48 : kBlockMask32;
  const uint64_t block = (indexes ? Le32(p + 4) | uint64_t{Le16(p)} << 32 : Le32(p)) & mask;
  if (block == mask) {
    *out = {ExtentKind::kHole, 0, 0, length};
    return Status::Ok();
  }
  return Resolve(inode, indexes ? Le16(p + 2) & device_id_mask : 0, block, skip, length, out);
}

Status Image::Private::MapPiece(const Inode& inode, uint64_t offset, Piece* out) const {
  switch (inode.layout) {
    case kLayoutPlain:
    case kLayoutInline:
      return MapFlat(inode, offset, out);
    case kLayoutChunk:
      return MapChunk(inode, offset, out);
    default:
      return Status::Unsupported(OfInode(inode.attr.nid) + "its data is compressed (layout " +
                                 std::to_string(inode.layout) + "), which ocifs does not read");
  }
}

Status Image::Private::ReadInPlace(const Inode& inode, uint64_t offset, uint64_t length, const uint8_t** out) const {
  Piece piece;
  if (Status s = MapPiece(inode, offset, &piece); !s.ok()) return s;
  if (piece.kind == ExtentKind::kDevice)
    return Status::Unsupported(OfInode(inode.attr.nid) + "a directory or symbolic link whose data lies on a layer " +
                               "device is not read");
  if (piece.kind != ExtentKind::kIndex || piece.length < length)
    return Status::Corrupt(OfInode(inode.attr.nid) + "metadata at byte " + std::to_string(offset) +
                           " is a hole or is cut off");
  *out = map + piece.offset;
  return Status::Ok();
}

Status Image::MapRange(uint64_t nid, uint64_t offset, uint64_t length, std::vector<Extent>* out,
                       uint64_t max_chunks) const {
  Inode inode;
  if (Status s = p_->ReadInode(nid, &inode); !s.ok()) return s;
  if (S_ISDIR(inode.attr.mode)) return {EISDIR, "usage", OfInode(nid) + "is a directory"};
  if (!S_ISREG(inode.attr.mode)) return {EINVAL, "usage", OfInode(nid) + "is no regular file"};
  if (offset >= inode.attr.size) return Status::Ok();
  const uint64_t end = offset + std::min(length, inode.attr.size - offset);
  const size_t first = out->size();
  for (uint64_t seen = 0; offset < end && seen < max_chunks; seen++) {
    Piece piece;
    if (Status s = p_->MapPiece(inode, offset, &piece); !s.ok()) return s;
    piece.length = std::min(piece.length, end - offset);
    Extent* last = out->size() > first ? &out->back() : nullptr;
    if (last != nullptr && last->kind == piece.kind && last->device == piece.device &&
        (piece.kind == ExtentKind::kHole || last->offset + last->length == piece.offset)) {
      last->length += piece.length;
    } else {
      out->push_back({piece.kind, offset, piece.length, piece.device, piece.offset});
    }
    offset += piece.length;
  }
  return Status::Ok();
}

}  // namespace ocifs::erofs
