#include "header_scan.h"

#include <algorithm>
#include <cstring>

namespace ocifs::tar {

namespace {

constexpr size_t kBlockBytes = 512;
constexpr size_t kNameBytes = 255;  // of one component
constexpr size_t kChecksumAt = 148, kChecksumBytes = 8;

// Octal digits between optional spaces and NULs; an empty field is 0. False for anything else, base-256 included.
bool Octal(const uint8_t* field, size_t size, uint64_t* value) {
  size_t at = 0;
  while (at < size && (field[at] == ' ' || field[at] == 0)) at++;
  *value = 0;
  for (; at < size && field[at] != ' ' && field[at] != 0; at++) {
    if (field[at] < '0' || field[at] > '7') return false;
    *value = *value * 8 + (field[at] - '0');
  }
  return true;
}

// The sum of unsigned bytes only; an old writer's signed one is left to the caller.
bool HasChecksum(const uint8_t* block) {
  uint32_t sum = kChecksumBytes * ' ';
  for (size_t i = 0; i < kBlockBytes; i++) sum += block[i];
  for (size_t i = 0; i < kChecksumBytes; i++) sum -= block[kChecksumAt + i];
  uint64_t stored;
  return Octal(block + kChecksumAt, kChecksumBytes, &stored) && stored == sum;
}

size_t FieldBytes(const uint8_t* field, size_t size) { return strnlen(reinterpret_cast<const char*>(field), size); }

bool TypeOf(uint8_t flag, PlainType* type) {
  switch (flag) {
    case 0:
    case '0': *type = PlainType::kFile; return true;
    case '1': *type = PlainType::kHardlink; return true;
    case '2': *type = PlainType::kSymlink; return true;
    case '5': *type = PlainType::kDirectory; return true;
    default: return false;
  }
}

}  // namespace

bool HeaderScan::Next(PlainEntry* entry) {
  const uint64_t skipped = std::min<uint64_t>(skip_, size_ - at_);
  at_ += skipped;
  skip_ -= skipped;
  if (skip_ > 0 || size_ - at_ < kBlockBytes || names_.capacity - names_.used < kNamesOfOneEntry) return false;
  const size_t names_used = names_.used;
  if (!Read(data_ + at_, entry)) {
    names_.used = names_used;
    return false;
  }
  entry->header_at = at_;
  entry->shares_directory =
      has_last_ && entry->name - entry->path == last_name_ - last_path_ &&
      std::memcmp(names_.bytes + entry->path, names_.bytes + last_path_, entry->name - entry->path) == 0;
  has_last_ = true;
  last_path_ = entry->path;
  last_name_ = entry->name;
  at_ += kBlockBytes;
  skip_ = (entry->size + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  return true;
}

bool HeaderScan::Read(const uint8_t* block, PlainEntry* entry) {
  uint64_t mode, size;
  if (!TypeOf(block[156], &entry->type) || !HasChecksum(block) || !Octal(block + 100, 8, &mode) ||
      !Octal(block + 108, 8, &entry->uid) || !Octal(block + 116, 8, &entry->gid) || !Octal(block + 124, 12, &size) ||
      !Octal(block + 136, 12, &entry->mtime))
    return false;
  entry->mode = static_cast<uint32_t>(mode & 07777);
  // A size in the header of anything else is left over from stat(2).
  entry->size = entry->type == PlainType::kFile ? size : 0;

  uint8_t raw[kBlockBytes];
  size_t raw_bytes = 0;
  const bool ustar = std::memcmp(block + 257, "ustar", 5) == 0 && !(block[262] == ' ' && block[263] == ' ');
  if (ustar && block[345] != 0) {
    if (std::memcmp(block + 508, "tar", 4) == 0) return false;  // star's shorter prefix
    raw_bytes = FieldBytes(block + 345, 155);
    std::memcpy(raw, block + 345, raw_bytes);
    raw[raw_bytes++] = '/';
  }
  const size_t name_bytes = FieldBytes(block, 100);
  std::memcpy(raw + raw_bytes, block, name_bytes);
  raw_bytes += name_bytes;
  // V7's way to say "directory".
  if (entry->type == PlainType::kFile && raw_bytes > 0 && raw[raw_bytes - 1] == '/') return false;
  if (!AppendPath(raw, raw_bytes, &entry->path, &entry->path_end, &entry->name)) return false;

  const size_t link_bytes = FieldBytes(block + 157, 100);
  entry->link = entry->link_end = names_.used;
  size_t link_name;
  if (entry->type == PlainType::kHardlink) return AppendPath(block + 157, link_bytes, &entry->link, &entry->link_end, &link_name);
  if (entry->type != PlainType::kSymlink) return true;
  std::memcpy(names_.bytes + names_.used, block + 157, link_bytes);
  entry->link_end = names_.used += link_bytes;
  return link_bytes > 0;
}

bool HeaderScan::AppendPath(const uint8_t* raw, size_t size, size_t* begin, size_t* end, size_t* name) {
  uint8_t* const out = names_.bytes;
  size_t used = names_.used;
  *begin = *name = used;
  for (size_t at = 0; at < size;) {
    const void* const slash = std::memchr(raw + at, '/', size - at);
    const size_t stop = slash == nullptr ? size : static_cast<size_t>(static_cast<const uint8_t*>(slash) - raw);
    const size_t bytes = stop - at;
    if (bytes > kNameBytes || (bytes == 2 && raw[at] == '.' && raw[at + 1] == '.')) return false;
    if (bytes > 1 || (bytes == 1 && raw[at] != '.')) {
      if (used > *begin) out[used++] = '/';
      *name = used;
      std::memcpy(out + used, raw + at, bytes);
      used += bytes;
    }
    at = stop + 1;
  }
  if (used == *begin) return false;  // the root
  *end = names_.used = used;
  return true;
}

}  // namespace ocifs::tar
