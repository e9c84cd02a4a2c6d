#include "format.h"

#include <array>
#include <cstdio>
#include <utility>

namespace ocifs::erofs {
namespace {

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
    table[i] = c;
  }
  return table;
}
constexpr auto kCrcTable = MakeCrcTable();

constexpr std::pair<uint32_t, const char*> kIncompatNames[] = {
    {kIncompatLz4ZeroPadding, "LZ4_0PADDING"},
    {kIncompatComprCfgs, "COMPR_CFGS/BIG_PCLUSTER"},
    {kIncompatChunkedFile, "CHUNKED_FILE"},
    {kIncompatDeviceTable, "DEVICE_TABLE/COMPR_HEAD2"},
    {kIncompatZtailpacking, "ZTAILPACKING"},
    {kIncompatFragments, "FRAGMENTS/DEDUPE"},
    {kIncompatXattrPrefixes, "XATTR_PREFIXES"},
    {kIncompat48Bit, "48BIT"},
    {kIncompatMetabox, "METABOX"},
};

}  // namespace

uint32_t Crc32cUpdate(uint32_t crc, const uint8_t* p, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) crc = (crc >> 8) ^ kCrcTable[(crc ^ p[i]) & 0xff];
  return crc;
}

std::string IncompatNames(uint32_t bits) {
  std::string text;
  for (const auto& [bit, name] : kIncompatNames) {
    if (!(bits & bit)) continue;
    text += (text.empty() ? "" : ", ") + std::string(name);
    bits &= ~bit;
  }
  if (bits != 0) {
    char hex[16];
    std::snprintf(hex, sizeof hex, "0x%x", bits);
    text += (text.empty() ? "" : ", ") + std::string(hex);
  }
  return text;
}

}  // namespace ocifs::erofs
