// Sparse files as a cache uses them: which parts hold data, giving parts back, and byte-range locks that belong to an open
// file (OFD), so they work between processes and vanish with them.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../base/status.h"

namespace ocifs::sparse {

// Appends the [begin, end) parts of [begin, end) that hold data, in order, by SEEK_DATA / SEEK_HOLE.
Status DataRanges(int fd, uint64_t begin, uint64_t end, std::vector<std::pair<uint64_t, uint64_t>>* out);

// Makes [begin, end) a hole. The size of the file stays.
Status PunchHole(int fd, uint64_t begin, uint64_t end);

// Tries to lock [begin, end); `*got` is false when another open file holds a conflicting lock.
Status TryLock(int fd, uint64_t begin, uint64_t end, bool exclusive, bool* got);
Status Unlock(int fd, uint64_t begin, uint64_t end);

// An unlinked file in memory of this size (all holes).
Status MemoryFile(uint64_t size, int* fd);

// Bytes that the files and directories at and below `path` take up on their disk, in blocks and delayed allocations included;
// 0 when there is nothing.
Status TreeUsage(const std::string& path, uint64_t* bytes);

}  // namespace ocifs::sparse
