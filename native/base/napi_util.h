// Helpers shared by the N-API wrappers (`*/binding.cc`). The only header of native/ beside the wrappers that knows N-API.
#pragma once
#include <napi.h>

#include <cstdint>
#include <string>

#include "status.h"

namespace ocifs {

// An Error with `ocifsCode` and `errno` properties; src/native/index.ts turns it into an OcifsError.
inline Napi::Error ToError(Napi::Env env, const Status& s) {
  Napi::Error e = Napi::Error::New(env, s.message);
  e.Set("ocifsCode", Napi::String::New(env, s.code[0] ? s.code : "internal"));
  e.Set("errno", Napi::Number::New(env, s.err));
  return e;
}

inline void ThrowIfFailed(Napi::Env env, const Status& s) {
  if (!s.ok()) throw ToError(env, s);
}

// A JS number that must be an integer in [0, 2^53): sizes, offsets, nids. Throws `usage` otherwise.
inline uint64_t ToU64(const Napi::Value& v, const char* what) {
  double d = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : -1;
  if (!(d >= 0) || d > 9007199254740991.0 || d != static_cast<double>(static_cast<uint64_t>(d)))
    throw ToError(v.Env(), Status::Usage(std::string(what) + " must be a non-negative integer below 2^53"));
  return static_cast<uint64_t>(d);
}

inline int ToInt(const Napi::Value& v, const char* what) {
  uint64_t u = ToU64(v, what);
  if (u > 0x7fffffff) throw ToError(v.Env(), Status::Usage(std::string(what) + " is out of range"));
  return static_cast<int>(u);
}

}  // namespace ocifs
