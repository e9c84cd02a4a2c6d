// A directory of whole files named by their fs-verity digest, xx/rest, as composefs arranges them.
#pragma once
#include "clone.h"
#include "verity.h"

namespace ocifs::content {

// Lower-case hex, "57/f742…".
std::string ObjectName(const Digest256& digest);

// Makes the object of `size` bytes from `offset` of `from`. It appears under its name whole.
Status PutObject(int objects, int from, uint64_t offset, uint64_t size, Digest256* digest, Counts* counts);

}  // namespace ocifs::content
