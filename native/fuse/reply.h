// Answers to requests, written to the descriptor that the request came from.
#pragma once
#include <cstddef>
#include <cstdint>

#include "counters.h"

namespace ocifs::fuse {

void Reply(Counters& counters, int fd, uint64_t unique, const void* data, size_t size);
// `err` is a positive errno.
void ReplyError(Counters& counters, int fd, uint64_t unique, int err);

}  // namespace ocifs::fuse
