// Reads the checkpoint table of a zinfo without its windows: 17 bytes of every 32785.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../base/status.h"

namespace ocifs::inflate {

// `count` records from byte 12 on, into arrays of `count` elements (doubles, because JavaScript reads them). The meaning is
// the caller's to check; here only values of 2^53 and more are `corrupt`, as is a file that ends early.
Status ReadZinfoTable(int fd, size_t count, double* in, double* out, uint8_t* bits);

}  // namespace ocifs::inflate
