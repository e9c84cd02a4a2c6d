// SHA-256 of bytes that stream by, computed on pool threads so that JavaScript's thread can do something else with them.
#include <array>
#include <cstring>
#include <memory>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "../base/sha256.h"
#include "../base/status.h"

namespace ocifs {
namespace {

struct OpenHash {
  Sha256 hash;
  bool busy = false;  // JavaScript's thread only
};

void ThrowIfBusy(Napi::Env env, const OpenHash& open) {
  if (open.busy) throw ToError(env, Status::Usage("sha256: used while an update is running"));
}

// openSha256() → { update(bytes) → Promise, digest() → 32 bytes; then it starts anew }
Napi::Value OpenSha256(const Napi::CallbackInfo& info) {
  auto open = std::make_shared<OpenHash>();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("update", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               if (!call[0].IsTypedArray() || call[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
                 throw ToError(call.Env(), Status::Usage("sha256: the bytes must be a Uint8Array"));
               const Napi::Uint8Array bytes = call[0].As<Napi::Uint8Array>();
               const uint8_t* const data = bytes.Data();
               const size_t size = bytes.ByteLength();
               open->busy = true;
               return AsyncTask::Run(
                   call.Env(),
                   [open, data, size] {
                     open->hash.Update(data, size);
                     return Status::Ok();
                   },
                   [open](Napi::Env env) -> Napi::Value {
                     open->busy = false;
                     return env.Undefined();
                   },
                   {bytes});
             }, "update"));
  object.Set("digest", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               const std::array<uint8_t, 32> digest = open->hash.Final();
               open->hash.Reset();
               Napi::Uint8Array out = Napi::Uint8Array::New(call.Env(), digest.size());
               std::memcpy(out.Data(), digest.data(), digest.size());
               return out;
             }, "digest"));
  return object;
}

}  // namespace

void InitHash(Napi::Env env, Napi::Object exports) {
  exports.Set("openSha256", Napi::Function::New(env, OpenSha256, "openSha256"));
}
}  // namespace ocifs
