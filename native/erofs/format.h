// EROFS on-disk constants and unaligned little-endian loads. Offsets are bytes from the start of the structure that the
// constant's prefix names. Format: the kernel's fs/erofs/erofs_fs.h and docs/FORMATS.md.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace ocifs::erofs {

template <typename T>
inline T LoadLe(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  static_assert(std::endian::native == std::endian::little, "this build reads EROFS on little-endian machines only");
  return v;
}
inline uint16_t Le16(const uint8_t* p) { return LoadLe<uint16_t>(p); }
inline uint32_t Le32(const uint8_t* p) { return LoadLe<uint32_t>(p); }
inline uint64_t Le64(const uint8_t* p) { return LoadLe<uint64_t>(p); }

constexpr uint64_t kSuperOffset = 1024;
constexpr uint64_t kSuperSize = 128;
constexpr uint64_t kSuperExtSlotSize = 16;
constexpr uint32_t kSuperMagic = 0xE0F5E1E2;
constexpr uint8_t kMinBlockBits = 9, kMaxBlockBits = 16;
constexpr uint64_t kDeviceSlotSize = 128;
constexpr uint64_t kDeviceTagSize = 64;

enum CompatBit : uint32_t {
  kCompatSbChecksum = 0x01,
  kCompatXattrFilter = 0x04,  // xattrs have name filters; a tarindex of ours has it if there are any
  kCompatSharedXattrsInMetabox = 0x08,
  kCompatPlainXattrPrefixes = 0x10,
};

enum IncompatBit : uint32_t {
  kIncompatLz4ZeroPadding = 0x01,  // says how LZ4 pads its clusters; mkfs sets it also when nothing is compressed
  kIncompatComprCfgs = 0x02,       // also BIG_PCLUSTER
  kIncompatChunkedFile = 0x04,
  kIncompatDeviceTable = 0x08,     // also COMPR_HEAD2
  kIncompatZtailpacking = 0x10,
  kIncompatFragments = 0x20,       // also DEDUPE; only compressed inodes have fragments
  kIncompatXattrPrefixes = 0x40,
  kIncompat48Bit = 0x80,
  kIncompatMetabox = 0x100,
};

// The bits that change nothing for inodes that are not compressed, or that this reader handles.
constexpr uint32_t kIncompatHandled = kIncompatLz4ZeroPadding | kIncompatChunkedFile | kIncompatDeviceTable |
                                      kIncompatFragments | kIncompatXattrPrefixes | kIncompat48Bit;

constexpr unsigned kSlotBits = 5;  // an inode lies on a multiple of 32 bytes
constexpr uint32_t kCompactInodeSize = 32, kExtendedInodeSize = 64;
constexpr uint16_t kInodeKnownBits = 0x1f;
constexpr uint16_t kInodeExtended = 0x01;
constexpr uint16_t kInodeBit4 = 0x10;  // NLINK_1 of compact inodes that are no directory, DOT_OMITTED of directories

enum Layout : uint8_t {
  kLayoutPlain = 0,
  kLayoutCompressedFull = 1,
  kLayoutInline = 2,
  kLayoutCompressedCompact = 3,
  kLayoutChunk = 4,
};

constexpr uint32_t kChunkBitsMask = 0x1f;
constexpr uint32_t kChunkIndexes = 0x20;
constexpr uint32_t kChunk48Bit = 0x40;
constexpr uint32_t kChunkKnownBits = 0x7f;
constexpr uint64_t kBlockMask32 = 0xffffffffu;
constexpr uint64_t kBlockMask48 = (uint64_t{1} << 48) - 1;

constexpr uint64_t kDirentSize = 12;
constexpr uint64_t kNameMax = 255;
constexpr uint8_t kTypeDirectory = 2;
constexpr uint64_t kSymlinkMax = 4095;  // Linux PATH_MAX without its NUL

constexpr uint32_t kXattrHeaderSize = 12;
constexpr uint32_t kXattrEntrySize = 4;
constexpr uint8_t kXattrLongPrefix = 0x80;

// CRC32C as EROFS keeps it: reflected polynomial 0x82F63B78, initial value all ones, no final inversion.
uint32_t Crc32cUpdate(uint32_t crc, const uint8_t* p, uint64_t n);

// The names of `bits`, for messages: "COMPR_CFGS, 0x200".
std::string IncompatNames(uint32_t bits);

}  // namespace ocifs::erofs
