// Where the numbers of an entry stand that a scan gives to JavaScript; src/native/tar.ts has the same.
#pragma once
#include <cstddef>

namespace ocifs::tar {

enum Column : size_t {
  kType,
  kMode,
  kUid,
  kGid,
  kMtime,
  kSize,
  kPath,
  kPathEnd,
  kName,
  kLink,
  kLinkEnd,
  kHeaderAt,
  kSharesDirectory,
  kColumnCount,
};

}  // namespace ocifs::tar
