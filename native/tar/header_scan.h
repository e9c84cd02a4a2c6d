// Finds the entries of a tar that stands in memory, as far as nothing about them is out of the ordinary: files, directories and links whose
// header says everything. At anything else the scan stops, and src/tar, which knows all the rules and messages, goes on from there.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ocifs::tar {

enum class PlainType : uint8_t { kFile = 0, kDirectory = 1, kSymlink = 2, kHardlink = 3 };

// One entry. Paths are in `Names`, normalized: no leading, trailing or doubled slash, no `.` or `..`, at least one name.
struct PlainEntry {
  PlainType type;
  // The bytes up to its last name are those of the entry before it in the same scan.
  bool shares_directory;
  uint32_t mode;
  uint64_t uid, gid, mtime, size;  // size: of a file, else 0
  size_t header_at;                // in the scanned bytes
  size_t path, path_end, name;     // `name`: where the path's last name begins
  size_t link, link_end;           // symlink: its target as stored; hard link: normalized
};

struct Names {
  uint8_t* bytes;
  size_t capacity;
  size_t used = 0;
};

// The longest path of a header block: a prefix of 155, a slash and a name of 100; and a link of 100.
constexpr size_t kNamesOfOneEntry = 356;

class HeaderScan {
 public:
  // `skip` bytes of an earlier entry's content come first.
  HeaderScan(const uint8_t* data, size_t size, uint64_t skip, Names names) : data_(data), size_(size), skip_(skip), names_(names) {}

  // The next entry, or false: the bytes end before the next header does, the names are full, or the header is not plain.
  bool Next(PlainEntry* entry);

  // Bytes that are done with, and of the last entry's content that are still to come.
  size_t at() const { return at_; }
  uint64_t skip() const { return skip_; }

 private:
  bool Read(const uint8_t* block, PlainEntry* entry);
  bool AppendPath(const uint8_t* raw, size_t size, size_t* begin, size_t* end, size_t* name);

  const uint8_t* const data_;
  const size_t size_;
  uint64_t skip_;
  Names names_;
  size_t at_ = 0;
  size_t last_path_ = 0, last_name_ = 0;  // of the entry before; equal at the beginning
  bool has_last_ = false;
};

}  // namespace ocifs::tar
