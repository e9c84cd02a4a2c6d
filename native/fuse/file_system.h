// What a FUSE session shows: nodes, by the numbers that the kernel sees (1 is the root), and where the bytes of a file are.
//
// Implementations never change while they are shown and may be asked from many threads at once. Two: the tree of a tarindex
// (tree_files.h), and the flat device files below a file system of the kernel's own (device_files.h).
#pragma once
#include <linux/fuse.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../base/status.h"
#include "../layer/span_store.h"

namespace ocifs::fuse {

// A run of a file's bytes.
struct Piece {
  enum class Kind { kZeros, kBytes, kDevice };
  Kind kind = Kind::kZeros;
  uint64_t length = 0;
  const uint8_t* bytes = nullptr;  // kBytes: valid as long as the file system
  uint32_t device = 0;             // kDevice: 1-based slot
  uint64_t offset = 0;             // kDevice: byte in that device
  uint64_t file_offset = 0;
};

struct Entry {
  std::string_view name;  // valid during the call that it is passed to
  uint64_t node = 0;
  uint64_t ino = 0;
  uint32_t type = 0;  // DT_*; DT_UNKNOWN says: ask for the mode
};

struct Totals {
  uint64_t bytes = 0, files = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // The devices that pieces speak of; [0] is slot 1.
  virtual const std::vector<std::shared_ptr<layer::SpanStore>>& devices() const = 0;
  virtual Totals totals() const = 0;
  // A file system of the kernel's own reads it past the page cache, without waiting in the call: then its readers wait for pages, and
  // a signal interrupts no read of theirs. (A process that reads so by itself could not be killed while it waits.)
  virtual bool direct_reads_in_background() const { return false; }

  virtual Status GetAttr(uint64_t node, fuse_attr* out) const = 0;
  // err == ENOENT when there is no such entry. `name` is 1 to 255 bytes, and not ".".
  virtual Status Lookup(uint64_t directory, std::string_view name, uint64_t* node) const = 0;
  // Calls `emit(entry, next_cookie)` from `cookie` (0 = start) until it returns false or the directory ends. With "." and "..".
  virtual Status ReadDir(uint64_t directory, uint64_t cookie,
                         const std::function<bool(const Entry&, uint64_t)>& emit) const = 0;
  virtual Status ReadLink(uint64_t node, std::string* out) const = 0;
  // As getxattr(2): err == ENODATA when there is none.
  virtual Status GetXattr(uint64_t node, std::string_view name, std::string* out) const = 0;
  // As listxattr(2): names, each followed by NUL.
  virtual Status ListXattr(uint64_t node, std::string* out) const = 0;
  // Appends the pieces of [offset, min(offset + size, file size)), in order, without gaps, all inside of their devices.
  virtual Status MapRead(uint64_t node, uint64_t offset, uint64_t size, std::vector<Piece>* out) const = 0;
  // How many bytes from the start of a kDevice piece reading ahead can make sense: to the end of the file, where that is known.
  virtual uint64_t ReadAheadBytes(uint64_t node, const Piece& piece) const = 0;
};

}  // namespace ocifs::fuse
