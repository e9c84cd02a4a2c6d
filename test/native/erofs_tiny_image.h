// A 48-bit EROFS image made by hand: 512-byte blocks, one device, a root directory without ".", a chunked file with a
// hole, an inline and a shared xattr with a long name prefix, and a symbolic link.
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

constexpr int64_t kTinyEpoch = 1000000;

inline std::vector<uint8_t> TinyImage() {
  constexpr size_t kBlock = 512, kBlocks = 6;
  constexpr uint64_t kRootNid = 48, kFileNid = 64, kLinkNid = 72, kSharedBlock = 5;
  constexpr size_t kPrefixAt = 1024 + 384;
  std::vector<uint8_t> b(kBlock * kBlocks);
  auto put = [&](size_t at, uint64_t value, size_t size) { std::memcpy(&b[at], &value, size); };
  auto text = [&](size_t at, std::string_view s) { std::memcpy(&b[at], s.data(), s.size()); };

  constexpr size_t sb = 1024;
  put(sb, 0xE0F5E1E2, 4);
  put(sb + 8, 0x2 | 0x10, 4);  // MTIME, PLAIN_XATTR_PFX
  put(sb + 12, 9, 1);
  put(sb + 16, 3, 8);
  put(sb + 24, kTinyEpoch, 8);
  put(sb + 36, kBlocks, 4);
  put(sb + 44, kSharedBlock, 4);
  put(sb + 80, 0x4 | 0x8 | 0x40 | 0x80, 4);  // CHUNKED_FILE, DEVICE_TABLE, XATTR_PREFIXES, 48BIT
  put(sb + 86, 1, 2);
  put(sb + 88, 9, 2);  // device slot at 1152
  put(sb + 91, 1, 1);
  put(sb + 92, kPrefixAt / 4, 4);
  put(sb + 112, kRootNid, 8);
  put(1152 + 64, 100, 4);      // blocks
  put(1152 + 68, kBlocks, 4);  // uniaddr
  put(kPrefixAt, 9, 2);        // base index + "overlay."
  put(kPrefixAt + 2, 4, 1);    // trusted.
  text(kPrefixAt + 3, "overlay.");

  // Root: compact, INLINE, DOT_OMITTED; three entries.
  const size_t root = kRootNid * 32;
  put(root, 0 | 2 << 1 | 0x10, 2);
  put(root + 4, 0040755, 2);
  put(root + 6, 2, 2);
  const size_t dir = root + 32;
  const std::string_view names[] = {"..", "file", "link"};
  const uint64_t nids[] = {kRootNid, kFileNid, kLinkNid};
  const uint8_t types[] = {2, 1, 7};
  size_t name_at = 36;
  for (int i = 0; i < 3; i++) {
    put(dir + 12 * i, nids[i], 8);
    put(dir + 12 * i + 8, name_at, 2);
    put(dir + 12 * i + 10, types[i], 1);
    text(dir + name_at, names[i]);
    name_at += names[i].size();
  }
  put(root + 8, name_at, 4);

  // File: compact, CHUNK, NLINK_1; chunks of one block with 48-bit indexes: device 1 block 7, then a hole.
  const size_t file = kFileNid * 32;
  put(file, 0 | 4 << 1 | 0x10, 2);
  put(file + 2, 5, 2);  // xattr area: 12 + 4 * 4, of which the last 4 are padding
  put(file + 4, 0100644, 2);
  put(file + 8, 1000, 4);
  put(file + 12, 5, 4);
  put(file + 16, 0x20 | 0x40, 4);
  const size_t xattrs = file + 32;
  put(xattrs + 4, 1, 1);   // one shared id, 0
  put(xattrs + 16, 1, 1);  // inline: "user." "k" = "v1"
  put(xattrs + 17, 1, 1);
  put(xattrs + 18, 2, 2);
  text(xattrs + 20, "kv1");
  const size_t chunks = file + 32 + 32;  // the xattrs end at 60, indexes are aligned to 8
  put(chunks + 2, 1, 2);
  put(chunks + 4, 7, 4);
  put(chunks + 8, ~uint64_t{0}, 8);
  put(kSharedBlock * kBlock, 6, 1);  // shared 0: prefix 0 + "opaque" = "y"
  put(kSharedBlock * kBlock + 1, 0x80, 1);
  put(kSharedBlock * kBlock + 2, 1, 2);
  text(kSharedBlock * kBlock + 4, "opaquey");

  // Link: extended, INLINE.
  const size_t link = kLinkNid * 32;
  put(link, 1 | 2 << 1, 2);
  put(link + 4, 0120777, 2);
  put(link + 8, 4, 8);
  put(link + 44, 1, 4);
  text(link + 64, "file");
  return b;
}
