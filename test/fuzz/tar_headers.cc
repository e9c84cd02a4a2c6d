// Input: u8 bytes of content before the first header, in eighths of a block; u8 room for names, in entries; u8 whether checksums are put
// right; then a tar.
#include "../../native/tar/header_scan.h"

#include "fuzz.h"

using namespace ocifs;
using tar::HeaderScan;
using tar::PlainEntry;

namespace {

constexpr size_t kBlockBytes = 512;

void SetChecksum(uint8_t* block) {
  std::memset(block + 148, ' ', 8);
  unsigned sum = 0;
  for (size_t i = 0; i < kBlockBytes; i++) sum += block[i];
  std::snprintf(reinterpret_cast<char*>(block + 148), 8, "%06o", sum & 0777777);
}

// Names between single slashes, none of them `.` or `..`.
void CheckPath(const std::string& path) {
  CHECK(!path.empty() && path.size() <= 255 + 1);
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string name = path.substr(at, end - at);
    CHECK(!name.empty() && name != "." && name != ".." && name.find('\0') == std::string::npos);
    at = end + 1;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint64_t skip = input.Take<uint8_t>() * (kBlockBytes / 8);
  fuzz::Bytes names(input.Take<uint8_t>() * tar::kNamesOfOneEntry + 1);
  const bool repair = input.Take<uint8_t>() % 2 == 1;
  fuzz::Bytes bytes = input.Rest();
  if (repair)
    for (size_t at = skip; at + kBlockBytes <= bytes.size(); at += kBlockBytes) SetChecksum(bytes.data() + at);
  HeaderScan scan(bytes.data(), bytes.size(), skip, {.bytes = names.data(), .capacity = names.size()});
  PlainEntry entry;
  size_t last_end = 0;
  std::string last_directory;
  for (bool first = true; scan.Next(&entry); first = false) {
    CHECK(entry.header_at >= last_end && entry.header_at + kBlockBytes == scan.at() && scan.at() <= bytes.size());
    CHECK(entry.path < entry.path_end && entry.path_end <= names.size() && entry.path <= entry.name && entry.name < entry.path_end);
    CHECK(entry.link <= entry.link_end && entry.link_end <= names.size() && entry.mode <= 07777);
    const auto text = [&](size_t from, size_t to) {
      return std::string(names.begin() + static_cast<ptrdiff_t>(from), names.begin() + static_cast<ptrdiff_t>(to));
    };
    CheckPath(text(entry.path, entry.path_end));
    if (entry.type == tar::PlainType::kHardlink) CheckPath(text(entry.link, entry.link_end));
    CHECK((entry.link < entry.link_end) == (entry.type == tar::PlainType::kHardlink || entry.type == tar::PlainType::kSymlink));
    CHECK(entry.type == tar::PlainType::kFile || entry.size == 0);
    CHECK(scan.skip() == (entry.size + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
    const std::string directory = text(entry.path, entry.name);
    CHECK(entry.shares_directory == (!first && directory == last_directory));
    last_directory = directory;
    last_end = scan.at();
  }
  CHECK(scan.at() <= bytes.size());
  return 0;
}
