#include "zinfo_table.h"

#include <unistd.h>

#include <string>

#include "checkpoint_writer.h"

namespace ocifs::inflate {

namespace {

uint64_t LoadLe64(const uint8_t* p) {
  uint64_t v = 0;
  for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
  return v;
}

}  // namespace

Status ReadZinfoTable(int fd, size_t count, double* in, double* out, uint8_t* bits) {
  constexpr uint64_t kMaxSafeInteger = (uint64_t{1} << 53) - 1;
  for (size_t i = 0; i < count; i++) {
    uint8_t record[17];
    const uint64_t offset = kZinfoHeaderBytes + i * kZinfoRecordBytes;
    ssize_t n;
    do n = pread(fd, record, sizeof record, static_cast<off_t>(offset));
    while (n < 0 && errno == EINTR);
    if (n < 0) return Status::Errno(errno, "zinfo: read at " + std::to_string(offset));
    if (n != sizeof record) return Status::Corrupt("zinfo: the file ends inside record " + std::to_string(i));
    const uint64_t compressed = LoadLe64(record), uncompressed = LoadLe64(record + 8);
    if (compressed > kMaxSafeInteger || uncompressed > kMaxSafeInteger)
      return Status::Corrupt("zinfo: record " + std::to_string(i) + " has an offset of 2^53 or more");
    in[i] = static_cast<double>(compressed);
    out[i] = static_cast<double>(uncompressed);
    bits[i] = record[16];
  }
  return Status::Ok();
}

}  // namespace ocifs::inflate
