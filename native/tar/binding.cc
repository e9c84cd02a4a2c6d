// N-API wrapper of the header scan.
#include "../base/napi_util.h"
#include "columns.h"
#include "header_scan.h"

namespace ocifs {
namespace {

using tar::HeaderScan;
using tar::PlainEntry;

void Store(const PlainEntry& e, double* out) {
  out[tar::kType] = static_cast<double>(e.type);
  out[tar::kMode] = e.mode;
  out[tar::kUid] = static_cast<double>(e.uid);
  out[tar::kGid] = static_cast<double>(e.gid);
  out[tar::kMtime] = static_cast<double>(e.mtime);
  out[tar::kSize] = static_cast<double>(e.size);
  out[tar::kPath] = static_cast<double>(e.path);
  out[tar::kPathEnd] = static_cast<double>(e.path_end);
  out[tar::kName] = static_cast<double>(e.name);
  out[tar::kLink] = static_cast<double>(e.link);
  out[tar::kLinkEnd] = static_cast<double>(e.link_end);
  out[tar::kHeaderAt] = static_cast<double>(e.header_at);
  out[tar::kSharesDirectory] = e.shares_directory ? 1 : 0;
}

// scanTarHeaders(bytes, at, skip, maximum, numbers, names, place) → count; `place` is set to where the scan ended: [at, skip]
Napi::Value ScanTarHeaders(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const uint64_t at = ToU64(info[1], "at"), skip = ToU64(info[2], "skip"), maximum = ToU64(info[3], "maximum");
  auto numbers = info[4].As<Napi::Float64Array>();
  auto names = info[5].As<Napi::Uint8Array>();
  auto place = info[6].As<Napi::Float64Array>();
  if (at > bytes.ByteLength() || maximum > numbers.ElementLength() / tar::kColumnCount || place.ElementLength() < 2)
    throw ToError(env, Status::Usage("tar scan: an offset or an array does not fit"));
  HeaderScan scan(bytes.Data() + at, bytes.ByteLength() - at, skip, tar::Names{.bytes = names.Data(), .capacity = names.ByteLength()});
  double* const out = numbers.Data();
  uint64_t count = 0;
  PlainEntry entry;
  for (; count < maximum && scan.Next(&entry); count++) {
    entry.header_at += at;
    Store(entry, out + count * tar::kColumnCount);
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
