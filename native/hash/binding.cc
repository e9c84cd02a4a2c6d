// SHA-256 of bytes that stream by, computed on pool threads so that JavaScript's thread can do something else with them.
#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "../base/sha256.h"
#include "../base/status.h"
#include "layer_hash.h"

namespace ocifs {
namespace {

template <class Hash>
struct Open {
  Hash hash;
  bool busy = false;  // JavaScript's thread only
};

template <class Hash>
void ThrowIfBusy(Napi::Env env, const Open<Hash>& open) {
  if (open.busy) throw ToError(env, Status::Usage("sha256: used while an update is running"));
}

Napi::Uint8Array ToBytes(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw ToError(value.Env(), Status::Usage("sha256: the bytes must be a Uint8Array"));
  return value.As<Napi::Uint8Array>();
}

// Runs `update(data, size)` on a pool thread, which holds the bytes and the hash meanwhile.
template <class Hash, class Update>
Napi::Value RunUpdate(Napi::Env env, const std::shared_ptr<Open<Hash>>& open, const Napi::Uint8Array& bytes, Update update) {
  const uint8_t* const data = bytes.Data();
  const size_t size = bytes.ByteLength();
  open->busy = true;
  return AsyncTask::Run(
      env, [update = std::move(update), data, size] { return update(data, size); },
      [open](Napi::Env result) -> Napi::Value {
        open->busy = false;
        return result.Undefined();
      },
      {bytes});
}

template <class Bytes>
Napi::Uint8Array Copy(Napi::Env env, const Bytes& bytes) {
  Napi::Uint8Array out = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), out.Data());
  return out;
}

// openSha256() → { update(bytes) → Promise, digest() → 32 bytes; then it starts anew }
Napi::Value OpenSha256(const Napi::CallbackInfo& info) {
  auto open = std::make_shared<Open<Sha256>>();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("update", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               return RunUpdate(call.Env(), open, ToBytes(call[0]), [open](const uint8_t* data, size_t size) {
                 open->hash.Update(data, size);
                 return Status::Ok();
               });
             }, "update"));
  object.Set("digest", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               const std::array<uint8_t, 32> digest = open->hash.Final();
               open->hash.Reset();
               return Copy(call.Env(), digest);
             }, "digest"));
  return object;
}

std::vector<uint64_t> ToOffsets(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
    throw ToError(value.Env(), Status::Usage("layer hash: the starts of spans must be a Float64Array"));
  const auto numbers = value.As<Napi::Float64Array>();
  std::vector<uint64_t> offsets(numbers.ElementLength());
  for (size_t i = 0; i < offsets.size(); i++) {
    if (!(numbers[i] >= 0)) throw ToError(value.Env(), Status::Usage("layer hash: a span begins at no byte"));
    offsets[i] = static_cast<uint64_t>(numbers[i]);
  }
  return offsets;
}

// openLayerHash() → { update(bytes, spanStarts) → Promise, finish() → { digest, spanDigests } }
Napi::Value OpenLayerHash(const Napi::CallbackInfo& info) {
  auto open = std::make_shared<Open<LayerHash>>();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("update", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               return RunUpdate(call.Env(), open, ToBytes(call[0]),
                                [open, starts = ToOffsets(call[1])](const uint8_t* data, size_t size) {
                                  return open->hash.Update(data, size, starts);
                                });
             }, "update"));
  object.Set("finish", Napi::Function::New(info.Env(), [open](const Napi::CallbackInfo& call) -> Napi::Value {
               ThrowIfBusy(call.Env(), *open);
               open->hash.Finish();
               Napi::Object result = Napi::Object::New(call.Env());
               result.Set("digest", Copy(call.Env(), open->hash.digest()));
               result.Set("spanDigests", Copy(call.Env(), open->hash.span_digests()));
               return result;
             }, "finish"));
  return object;
}

}  // namespace

void InitHash(Napi::Env env, Napi::Object exports) {
  exports.Set("openSha256", Napi::Function::New(env, OpenSha256, "openSha256"));
  exports.Set("openLayerHash", Napi::Function::New(env, OpenLayerHash, "openLayerHash"));
}
}  // namespace ocifs
