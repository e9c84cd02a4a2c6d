// What a tarindex chooses where EROFS leaves a choice: blocks of 512 bytes, so that every file of a tar begins on one.
#pragma once
#include <cstdint>

namespace ocifs::erofs {

constexpr unsigned kTarindexBlockBits = 9;
constexpr uint64_t kTarindexBlockBytes = 1 << kTarindexBlockBits;
constexpr unsigned kMaxChunkBits = kTarindexBlockBits + 31;  // the format has 5 bits for it
constexpr uint64_t kChunkIndexBytes = 8;

}  // namespace ocifs::erofs
