// What the FUSE wire protocol has beyond the <linux/fuse.h> that is installed, and its limits as ocifs uses them.
// Source: the kernel's include/uapi/linux/fuse.h (protocol 7.40 and later) and Documentation/filesystems/fuse.
#pragma once
#include <linux/fuse.h>

#include <cstdint>

namespace ocifs::fuse {

// Flags of the second word of FUSE_INIT; 64-bit here as in the kernel.
constexpr uint64_t kHasResend = 1ull << 39;
// Set in fuse_in_header.unique of a request that FUSE_NOTIFY_RESEND sent again.
constexpr uint64_t kUniqueResend = 1ull << 63;
constexpr int kNotifyResend = 7;

// The version whose meaning we speak; the kernel takes the smaller of this and its own.
constexpr uint32_t kMinorVersion = 40;

// 256 pages: reads of up to 1 MiB.
constexpr uint32_t kMaxPages = 256;
constexpr size_t kMaxReadBytes = 1u << 20;
// We refuse every write, so the kernel never sends more than names and xattr requests: header, page-sized names, and the
// minimum of 8 KiB (FUSE_MIN_READ_BUFFER) that the kernel insists on, plus the room for one page of a write.
constexpr size_t kRequestBytes = 128 << 10;

}  // namespace ocifs::fuse
