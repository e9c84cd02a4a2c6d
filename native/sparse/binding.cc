#include "sparse.h"

#include "../base/async.h"
#include "../base/napi_util.h"

namespace ocifs {
namespace {

// dataRanges(fd, begin, end) → [b0, e0, b1, e1, …]
Napi::Value DataRanges(const Napi::CallbackInfo& info) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  ThrowIfFailed(info.Env(), sparse::DataRanges(ToInt(info[0], "fd"), ToU64(info[1], "begin"), ToU64(info[2], "end"), &ranges));
  Napi::Array out = Napi::Array::New(info.Env(), ranges.size() * 2);
  uint32_t n = 0;
  for (const auto& [b, e] : ranges) {
    out.Set(n++, Napi::Number::New(info.Env(), static_cast<double>(b)));
    out.Set(n++, Napi::Number::New(info.Env(), static_cast<double>(e)));
  }
  return out;
}

void PunchHole(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), sparse::PunchHole(ToInt(info[0], "fd"), ToU64(info[1], "begin"), ToU64(info[2], "end")));
}

Napi::Value TryLock(const Napi::CallbackInfo& info) {
  bool got = false;
  ThrowIfFailed(info.Env(), sparse::TryLock(ToInt(info[0], "fd"), ToU64(info[1], "begin"), ToU64(info[2], "end"),
                                            info[3].ToBoolean(), &got));
  return Napi::Boolean::New(info.Env(), got);
}

void Unlock(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), sparse::Unlock(ToInt(info[0], "fd"), ToU64(info[1], "begin"), ToU64(info[2], "end")));
}

Napi::Value MemoryFile(const Napi::CallbackInfo& info) {
  int fd = -1;
  ThrowIfFailed(info.Env(), sparse::MemoryFile(ToU64(info[0], "size"), &fd));
  return Napi::Number::New(info.Env(), fd);
}

// treeUsage(path) → Promise of bytes. On a pool thread: one stat a file.
Napi::Value TreeUsage(const Napi::CallbackInfo& info) {
  const std::string path = info[0].ToString().Utf8Value();
  auto bytes = std::make_shared<uint64_t>(0);
  return AsyncTask::Run(
      info.Env(), [=] { return sparse::TreeUsage(path, bytes.get()); },
      [bytes](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(*bytes)); });
}

}  // namespace

void InitSparse(Napi::Env env, Napi::Object exports) {
  exports.Set("dataRanges", Napi::Function::New(env, DataRanges));
  exports.Set("punchHole", Napi::Function::New(env, PunchHole));
  exports.Set("tryLock", Napi::Function::New(env, TryLock));
  exports.Set("unlock", Napi::Function::New(env, Unlock));
  exports.Set("treeUsage", Napi::Function::New(env, TreeUsage));
  exports.Set("memoryFile", Napi::Function::New(env, MemoryFile));
}
}  // namespace ocifs
