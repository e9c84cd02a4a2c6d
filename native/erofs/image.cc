// Opening an image: mapping, superblock, device table.
#include "image.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstdio>

#include "image_private.h"

namespace ocifs::erofs {
namespace {

// Field offsets in the superblock.
constexpr int kMagicAt = 0, kChecksumAt = 4, kCompatAt = 8, kBlockBitsAt = 12, kExtSlotsAt = 13, kRootNid16At = 14,
              kInodesAt = 16, kEpochAt = 24, kFixedNsecAt = 32, kBlocksLoAt = 36, kMetaBlockAt = 40,
              kXattrBlockAt = 44, kIncompatAt = 80, kExtraDevicesAt = 86, kDeviceSlotAt = 88, kDirBlockBitsAt = 90,
              kPrefixCountAt = 91, kPrefixStartAt = 92, kPackedNidAt = 96, kRootNid64At = 112;
// And in a device slot.
constexpr int kSlotBlocksLoAt = 64, kSlotUniaddrLoAt = 68, kSlotBlocksHiAt = 72, kSlotUniaddrHiAt = 74;

std::string Hex(uint32_t v) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", v);
  return text;
}

Status TooShort(uint64_t size) {
  return Status::Corrupt("EROFS image: " + std::to_string(size) + " bytes are too short for a superblock");
}

Status CheckChecksum(const uint8_t* sb, uint64_t block_size, uint64_t available) {
  const uint64_t covered = block_size > kSuperOffset ? block_size - kSuperOffset : block_size;
  if (covered > available) return Status::Corrupt("EROFS image: file ends inside the superblock's block");
  const uint8_t zeros[4] = {};
  uint32_t crc = Crc32cUpdate(~0u, sb, kChecksumAt);
  crc = Crc32cUpdate(crc, zeros, sizeof zeros);
  crc = Crc32cUpdate(crc, sb + kChecksumAt + 4, covered - kChecksumAt - 4);
  const uint32_t stored = Le32(sb + kChecksumAt);
  if (crc != stored)
    return Status::Corrupt("EROFS image: superblock checksum is " + Hex(crc) + ", stored is " + Hex(stored) +
                           "; the file is damaged");
  return Status::Ok();
}

DeviceSlot ParseSlot(const uint8_t* p) {
  DeviceSlot slot;
  const char* tag = reinterpret_cast<const char*>(p);
  slot.tag.assign(tag, strnlen(tag, kDeviceTagSize));
  slot.blocks = Le32(p + kSlotBlocksLoAt) | uint64_t{Le16(p + kSlotBlocksHiAt)} << 32;
  slot.uniaddr = Le32(p + kSlotUniaddrLoAt) | uint64_t{Le16(p + kSlotUniaddrHiAt)} << 32;
  return slot;
}

// Slots that have a flat address, sorted by it. Overlaps are refused: an address must mean one device.
Status SortFlatDevices(const std::vector<DeviceSlot>& devices, std::vector<uint32_t>* out) {
  for (uint32_t i = 0; i < devices.size(); i++)
    if (devices[i].uniaddr != 0) out->push_back(i + 1);
  std::sort(out->begin(), out->end(), [&](uint32_t a, uint32_t b) {
    return std::pair(devices[a - 1].uniaddr, a) < std::pair(devices[b - 1].uniaddr, b);
  });
  for (size_t i = 1; i < out->size(); i++) {
    const DeviceSlot& before = devices[(*out)[i - 1] - 1];
    if (before.uniaddr + before.blocks > devices[(*out)[i] - 1].uniaddr)
      return Status::Corrupt("EROFS image: device slots " + std::to_string((*out)[i - 1]) + " and " +
                             std::to_string((*out)[i]) + " overlap in the flat address space");
  }
  return Status::Ok();
}

}  // namespace

Image::~Image() {
  if (map_ != nullptr && owned_.empty()) munmap(const_cast<uint8_t*>(map_), map_size_);
}

Status Image::Open(int fd, std::unique_ptr<Image>* out) {
  struct stat st {};
  if (fstat(fd, &st) != 0) return Status::Errno(errno, "EROFS image: fstat");
  if (!S_ISREG(st.st_mode)) return Status::Usage("EROFS image: not a regular file; pass a tarindex or EROFS image file");
  const auto size = static_cast<uint64_t>(st.st_size);
  if (size == 0) return TooShort(size);  // nothing that could be mapped

  std::unique_ptr<Image> image(new Image());
  void* map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) return Status::Errno(errno, "EROFS image: mmap");
  image->map_ = static_cast<const uint8_t*>(map);
  image->map_size_ = size;
  if (Status s = image->Load(); !s.ok()) return s;
  *out = std::move(image);
  return Status::Ok();
}

Status Image::OpenBytes(std::vector<uint8_t> bytes, std::unique_ptr<Image>* out) {
  if (bytes.empty()) return TooShort(0);
  std::unique_ptr<Image> image(new Image());
  image->owned_ = std::move(bytes);
  image->map_ = image->owned_.data();
  image->map_size_ = image->owned_.size();
  if (Status s = image->Load(); !s.ok()) return s;
  *out = std::move(image);
  return Status::Ok();
}

void Image::TrustXattrFlag() { has_no_xattrs_ = (p_->compat & kCompatXattrFilter) == 0; }

Status Image::Load() {
  if (map_size_ < kSuperOffset + kSuperSize) return TooShort(map_size_);
  p_ = std::make_unique<Private>(devices_);
  Private& p = *p_;
  p.map = map_;
  p.size = map_size_;
  const uint8_t* sb = map_ + kSuperOffset;

  if (Le32(sb + kMagicAt) != kSuperMagic)
    return Status::Corrupt("EROFS image: magic is " + Hex(Le32(sb + kMagicAt)) + ", want " + Hex(kSuperMagic));
  blkszbits_ = p.block_bits = sb[kBlockBitsAt];
  if (p.block_bits < kMinBlockBits || p.block_bits > kMaxBlockBits)
    return Status::Corrupt("EROFS image: block size 2^" + std::to_string(p.block_bits) + ", want 2^9 to 2^16");
  p.compat = Le32(sb + kCompatAt);
  if (p.compat & kCompatSbChecksum) {
    if (Status s = CheckChecksum(sb, p.block_size(), map_size_ - kSuperOffset); !s.ok()) return s;
  }
  p.incompat = Le32(sb + kIncompatAt);
  if (const uint32_t unknown = p.incompat & ~kIncompatHandled; unknown != 0)
    return Status::Unsupported("EROFS image: needs " + IncompatNames(unknown) +
                               ", which ocifs does not read; build the image without it");
  if (p.compat & kCompatSharedXattrsInMetabox)
    return Status::Unsupported("EROFS image: keeps shared xattrs in a metabox, which ocifs does not read");
  if (sb[kDirBlockBitsAt] != 0)
    return Status::Unsupported("EROFS image: directory blocks of another size than data blocks are not read");
  if (!p.Span(kSuperOffset, kSuperSize + sb[kExtSlotsAt] * kSuperExtSlotSize))
    return Status::Corrupt("EROFS image: file ends inside the superblock's extension slots");

  const bool wide_root = (p.incompat & kIncompat48Bit) && Le64(sb + kRootNid64At) != 0;
  root_nid_ = wide_root ? Le64(sb + kRootNid64At) : Le16(sb + kRootNid16At);
  primary_blocks_ = Le32(sb + kBlocksLoAt) | (wide_root ? uint64_t{Le16(sb + kRootNid16At)} << 32 : 0);
  if (primary_blocks_ > map_size_ >> p.block_bits)
    return Status::Corrupt("EROFS image: superblock counts " + std::to_string(primary_blocks_) + " blocks, the file has " +
                           std::to_string(map_size_ >> p.block_bits) + "; it is truncated");
  inode_count_ = Le64(sb + kInodesAt);
  p.epoch_sec = static_cast<int64_t>(Le64(sb + kEpochAt));
  p.fixed_nsec = Le32(sb + kFixedNsecAt);
  p.meta_pos = uint64_t{Le32(sb + kMetaBlockAt)} << p.block_bits;
  p.xattr_pos = uint64_t{Le32(sb + kXattrBlockAt)} << p.block_bits;
  p.packed_nid = Le64(sb + kPackedNidAt);

  if (p.incompat & kIncompatDeviceTable) {
    const uint32_t count = Le16(sb + kExtraDevicesAt);
    const uint8_t* slots = p.Span(Le16(sb + kDeviceSlotAt) * kDeviceSlotSize, count * kDeviceSlotSize);
    if (slots == nullptr)
      return Status::Corrupt("EROFS image: table of " + std::to_string(count) + " devices lies outside the file");
    for (uint32_t i = 0; i < count; i++) devices_.push_back(ParseSlot(slots + i * kDeviceSlotSize));
    p.device_id_mask = std::bit_ceil(count + 1) - 1;
    if (Status s = SortFlatDevices(devices_, &p.flat_devices); !s.ok()) return s;
  }
  if (Status s = p.LoadPrefixes(uint64_t{Le32(sb + kPrefixStartAt)} << 2, sb[kPrefixCountAt]); !s.ok()) return s;

  Inode root;
  if (Status s = p.ReadInode(root_nid_, &root); !s.ok()) return s;
  if (!S_ISDIR(root.attr.mode))
    return Status::Corrupt(OfInode(root_nid_) + "the superblock names it as root, but it is no directory");
  return Status::Ok();
}

}  // namespace ocifs::erofs
