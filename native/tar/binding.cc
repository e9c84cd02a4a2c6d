// N-API wrapper of the header scan.
#include "../base/napi_util.h"
#include "header_scan.h"

namespace ocifs {
namespace {

using tar::HeaderScan;
using tar::PlainEntry;

// Numbers of one entry, in this order; src/tar/plain-entries.ts reads them.
constexpr size_t kColumns = 13;

void Store(const PlainEntry& e, double* out) {
  const double values[kColumns] = {
      static_cast<double>(e.type),     static_cast<double>(e.mode),      static_cast<double>(e.uid),  static_cast<double>(e.gid),
      static_cast<double>(e.mtime),    static_cast<double>(e.size),      static_cast<double>(e.path), static_cast<double>(e.path_end),
      static_cast<double>(e.name),     static_cast<double>(e.link),      static_cast<double>(e.link_end), static_cast<double>(e.header_at),
      e.shares_directory ? 1.0 : 0.0,
  };
  for (size_t i = 0; i < kColumns; i++) out[i] = values[i];
}

// scanTarHeaders(bytes, at, skip, maximum, numbers, names, place) → count; `place` is set to where the scan ended: [at, skip]
Napi::Value ScanTarHeaders(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const uint64_t at = ToU64(info[1], "at"), skip = ToU64(info[2], "skip"), maximum = ToU64(info[3], "maximum");
  auto numbers = info[4].As<Napi::Float64Array>();
  auto names = info[5].As<Napi::Uint8Array>();
  auto place = info[6].As<Napi::Float64Array>();
  if (at > bytes.ByteLength() || maximum > numbers.ElementLength() / kColumns || place.ElementLength() < 2)
    throw ToError(env, Status::Usage("tar scan: an offset or an array does not fit"));
  HeaderScan scan(bytes.Data() + at, bytes.ByteLength() - at, skip, tar::Names{.bytes = names.Data(), .capacity = names.ByteLength()});
  double* const out = numbers.Data();
  uint64_t count = 0;
  PlainEntry entry;
  for (; count < maximum && scan.Next(&entry); count++) {
    entry.header_at += at;
    Store(entry, out + count * kColumns);
  }
  place.Data()[0] = static_cast<double>(at + scan.at());
  place.Data()[1] = static_cast<double>(scan.skip());
  return Napi::Number::New(env, static_cast<double>(count));
}

}  // namespace

void InitTar(Napi::Env env, Napi::Object exports) {
  exports.Set("scanTarHeaders", Napi::Function::New(env, ScanTarHeaders, "scanTarHeaders"));
}

}  // namespace ocifs
