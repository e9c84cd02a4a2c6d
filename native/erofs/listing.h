// A directory's entries with everything that is known of their inodes, packed into one buffer: what a reader of whole
// trees needs at one call a directory instead of several an entry.
#pragma once
#include <cstddef>
#include <cstdint>

#include "image.h"

namespace ocifs::erofs {

// How a record says where the bytes of a file lie.
enum class ListedData : uint32_t {
  kNone = 0,   // no file, or an empty one
  kWhole = 1,  // one piece of one device: `device` and `data_offset`
  kOther = 2,  // several pieces, holes, or bytes of the image itself: ask MapRange
};

// One record, little-endian, followed by the name, the symbolic link's target and the xattrs; padded to 8 bytes. An xattr is
// u16 name length, u16 value length, full name, value. No 64-bit number exceeds 2^53 - 1, so that each is exact in JavaScript.
// src/native/erofs-directory.ts reads it.
struct ListedRecord {
  uint64_t nid;
  uint64_t size;
  int64_t mtime_sec;
  uint64_t data_offset;
  uint32_t record_size;  // of all of it
  uint32_t mtime_nsec;
  uint32_t uid;
  uint32_t gid;
  uint32_t nlink;
  uint32_t device;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint32_t data_kind;  // ListedData
  uint32_t target_size;
  uint32_t xattrs_size;
  uint16_t mode;
  uint16_t name_size;
};
static_assert(sizeof(ListedRecord) == 80);

struct ListedPage {
  size_t used = 0;      // bytes of the buffer
  uint64_t cookie = 0;  // where to continue
  bool done = false;
};

// Fills `buffer` with records from `cookie` (0 = start) on, without "." and "..". "limit" when not even one fits.
Status ListDirectory(const Image& image, uint64_t dir_nid, uint64_t cookie, uint8_t* buffer, size_t size, ListedPage* out);

}  // namespace ocifs::erofs
