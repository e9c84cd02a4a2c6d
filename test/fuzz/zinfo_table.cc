// Input: u8 what to cut off the end, u8 how many records more or less than there are to ask for, then 17 bytes a record; the
// windows between them, which the table's reader passes over, are holes of a sparse file.
#include "../../native/inflate/zinfo_table.h"

#include "../../native/inflate/checkpoint_writer.h"
#include "fuzz.h"

using namespace ocifs;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kTableBytes = 17, kRecordsMax = 256;
  fuzz::Input input(data, size);
  const uint64_t cut = input.Take<uint8_t>();
  const int more = input.Take<int8_t>();
  const fuzz::Bytes records = input.TakeBytes(kTableBytes * kRecordsMax);
  const size_t whole = records.size() / kTableBytes;
  fuzz::MemoryFile file;
  uint64_t end = inflate::kZinfoHeaderBytes;
  for (size_t at = 0; at < records.size(); at += kTableBytes) {
    const uint64_t offset = inflate::kZinfoHeaderBytes + at / kTableBytes * inflate::kZinfoRecordBytes;
    const size_t n = std::min(kTableBytes, records.size() - at);
    file.Put(offset, records.data() + at, n);
    end = n == kTableBytes ? offset + inflate::kZinfoRecordBytes : offset + n;
  }
  file.Resize(end - std::min(end, cut * 200));
  const size_t wanted = static_cast<size_t>(std::max<int64_t>(0, static_cast<int64_t>(whole) + more % 4));

  std::vector<double> in(wanted), out(wanted);
  fuzz::Bytes bits(wanted);
  const Status s = inflate::ReadZinfoTable(file.fd(), wanted, in.data(), out.data(), bits.data());
  fuzz::CheckStatus(s);
  if (!s.ok()) return 0;
  CHECK(wanted <= whole);
  for (size_t i = 0; i < wanted; i++) {
    uint64_t values[2];
    std::memcpy(values, records.data() + i * kTableBytes, sizeof values);
    CHECK(values[0] < uint64_t{1} << 53 && values[1] < uint64_t{1} << 53);
    CHECK(in[i] == static_cast<double>(values[0]) && out[i] == static_cast<double>(values[1]));
    CHECK(bits[i] == records[i * kTableBytes + 16]);
  }
  return 0;
}
