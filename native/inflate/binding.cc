#include <dlfcn.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding_util.h"
#include "recorder.h"
#include "span_decoder.h"
#include "zinfo_table.h"
#include "zstd_stream.h"

namespace ocifs {
namespace {

using inflate::kWindowBytes;

constexpr uint64_t kMaxDecodedBytes = 64 << 20;
constexpr uint64_t kMaxTableRecords = 1 << 24;
constexpr uint64_t kMinSpanBytes = kWindowBytes;

Napi::Object ToOptions(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw ToError(info.Env(), Status::Usage("the options must be an object"));
  return info[0].As<Napi::Object>();
}

bool IsSet(const Napi::Object& o, const char* name) { return o.Get(name).ToBoolean().Value(); }

// ---- decodeSpan

class DecodeWorker final : public PromiseWorker {
 public:
  DecodeWorker(Napi::Env env, const Napi::Object& o)
      : PromiseWorker(env), fd_(env, ToInt(o.Get("fd"), "fd"), "span"), zlib_(IsSet(o, "zlib")) {
    in_.fd = fd_.get();
    in_.begin = ToU64(o.Get("begin"), "begin");
    in_.end = ToU64(o.Get("end"), "end");
    in_.at_header = IsSet(o, "atHeader");
    in_.last = IsSet(o, "last");
    in_.bits = static_cast<uint8_t>(std::min<uint64_t>(ToU64(o.Get("bits"), "bits"), 255));  // the core refuses more than 7
    in_.out_size = ToU64(o.Get("outSizeBytes"), "outSizeBytes");
    in_.window = Window(o.Get("window"), &window_, "window");
    in_.next_window = Window(o.Get("nextWindow"), &next_window_, "nextWindow");
    if (in_.out_size > kMaxDecodedBytes)
      throw ToError(env, Status::Limit("span: " + std::to_string(in_.out_size) + " bytes are more than are decoded into memory (64 MiB)"));
    Napi::Uint8Array out = Napi::Uint8Array::New(env, in_.out_size);
    data_ = out.Data();
    out_ = Napi::Persistent(out);
  }

 protected:
  Status Work() override {
    uint8_t* at = data_;
    const inflate::Sink sink = [&](const uint8_t* p, size_t n) {
      std::memcpy(at, p, n);
      at += n;
      return Status::Ok();
    };
    return zlib_ ? inflate::DecodeSpanZlib(in_, sink) : inflate::DecodeSpan(in_, sink);
  }
  Napi::Value Result(Napi::Env) override { return out_.Value(); }

 private:
  static const uint8_t* Window(const Napi::Value& v, std::vector<uint8_t>* copy, const char* what) {
    if (v.IsUndefined() || v.IsNull()) return nullptr;
    const Napi::Uint8Array bytes = ToBytes(v, what);
    if (bytes.ByteLength() != kWindowBytes)
      throw ToError(v.Env(), Status::Usage(std::string(what) + " must have 32768 bytes"));
    copy->assign(bytes.Data(), bytes.Data() + kWindowBytes);
    return copy->data();
  }

  OwnedFd fd_;
  const bool zlib_;
  inflate::SpanInput in_;
  std::vector<uint8_t> window_, next_window_;
  Napi::Reference<Napi::Uint8Array> out_;
  uint8_t* data_ = nullptr;
};

Napi::Value DecodeSpan(const Napi::CallbackInfo& info) {
  auto worker = std::make_unique<DecodeWorker>(info.Env(), ToOptions(info));
  return worker.release()->Start();  // an AsyncWorker deletes itself
}

// ---- readZinfoTable

class TableWorker final : public PromiseWorker {
 public:
  TableWorker(Napi::Env env, int fd, size_t count) : PromiseWorker(env), fd_(env, fd, "zinfo"), count_(count) {
    Napi::Float64Array in = Napi::Float64Array::New(env, count), out = Napi::Float64Array::New(env, count);
    Napi::Uint8Array bits = Napi::Uint8Array::New(env, count);
    in_data_ = in.Data();
    out_data_ = out.Data();
    bits_data_ = bits.Data();
    Napi::Object table = Napi::Object::New(env);
    table.Set("in", in);
    table.Set("out", out);
    table.Set("bits", bits);
    table_ = Napi::Persistent(table);
  }

 protected:
  Status Work() override { return inflate::ReadZinfoTable(fd_.get(), count_, in_data_, out_data_, bits_data_); }
  Napi::Value Result(Napi::Env) override { return table_.Value(); }

 private:
  OwnedFd fd_;
  const size_t count_;
  double *in_data_, *out_data_;
  uint8_t* bits_data_;
  Napi::ObjectReference table_;
};

Napi::Value ReadZinfoTable(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const uint64_t count = ToU64(info[1], "count");
  if (count > kMaxTableRecords)
    throw ToError(info.Env(), Status::Limit("zinfo: a table of " + std::to_string(count) + " records is not read"));
  auto worker = std::make_unique<TableWorker>(info.Env(), fd, count);
  return worker.release()->Start();
}

// ---- the recorder

struct OpenRecorder {
  OpenRecorder(Napi::Env env, int zinfo_fd, uint64_t span_size, uint64_t max_checkpoints, bool zlib)
      : fd(env, zinfo_fd, "zinfo"), recorder(inflate::Recorder::Create({fd.get(), span_size, max_checkpoints, zlib})) {}
  inflate::Stepper& stepper() const { return *recorder; }
  OwnedFd fd;
  std::unique_ptr<inflate::Recorder> recorder;
  size_t starts_taken = 0;
};

// Those that were not taken yet.
Napi::Value TakeSpanStarts(Napi::Env env, OpenRecorder& open) {
  const std::vector<uint64_t>& starts = open.recorder->span_starts();
  const size_t count = starts.size() - open.starts_taken;
  Napi::Float64Array taken = Napi::Float64Array::New(env, count);
  for (size_t i = 0; i < count; i++) taken.Data()[i] = static_cast<double>(starts[open.starts_taken + i]);
  open.starts_taken = starts.size();
  return taken;
}

Napi::Value Finish(Napi::Env env, inflate::Recorder& recorder) {
  inflate::Recorded r;
  ThrowIfFailed(env, recorder.Finish(&r));
  Napi::Object o = Napi::Object::New(env);
  o.Set("compressedSizeBytes", Napi::Number::New(env, static_cast<double>(r.compressed_size)));
  o.Set("uncompressedSizeBytes", Napi::Number::New(env, static_cast<double>(r.uncompressed_size)));
  o.Set("checkpointCount", Napi::Number::New(env, static_cast<double>(r.checkpoint_count)));
  o.Set("trailingBytes", Napi::Number::New(env, static_cast<double>(r.trailing_bytes)));
  return o;
}

Napi::Value OpenGzipRecorder(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Napi::Object options = ToOptions(info);
  const int fd = ToInt(options.Get("zinfoFd"), "zinfoFd");
  const uint64_t span_size = ToU64(options.Get("spanSizeBytes"), "spanSizeBytes");
  const uint64_t max_checkpoints = ToU64(options.Get("maxCheckpoints"), "maxCheckpoints");
  if (span_size < kMinSpanBytes)
    throw ToError(env, Status::Usage("gzip recorder: a span of " + std::to_string(span_size) +
                                     " bytes is smaller than its 32 KiB window; want at least 32768"));
  if (max_checkpoints > UINT32_MAX) throw ToError(env, Status::Usage("gzip recorder: a zinfo counts checkpoints in 32 bits"));
  auto state = std::make_shared<StepperState<OpenRecorder>>(
      std::make_unique<OpenRecorder>(env, fd, span_size, max_checkpoints, IsSet(options, "zlib")), "gzip recorder");
  Napi::Object object = Napi::Object::New(env);
  state->AddTo(object);
  object.Set("finish", Napi::Function::New(env, [state](const Napi::CallbackInfo& call) -> Napi::Value {
               return Finish(call.Env(), *state->Idle(call.Env()).recorder);
             }, "finish"));
  object.Set("takeSpanStarts", Napi::Function::New(env, [state](const Napi::CallbackInfo& call) -> Napi::Value {
               return TakeSpanStarts(call.Env(), state->Idle(call.Env()));
             }, "takeSpanStarts"));
  return object;
}

// ---- zstd

struct OpenZstd {
  inflate::Stepper& stepper() const { return *stream; }
  std::unique_ptr<inflate::ZstdStream> stream = inflate::ZstdStream::Create();
};

Napi::Value OpenZstdStream(const Napi::CallbackInfo& info) {
  auto state = std::make_shared<StepperState<OpenZstd>>(std::make_unique<OpenZstd>(), "zstd stream");
  Napi::Object object = Napi::Object::New(info.Env());
  state->AddTo(object);
  object.Set("finish", Napi::Function::New(info.Env(), [state](const Napi::CallbackInfo& call) {
               ThrowIfFailed(call.Env(), state->Idle(call.Env()).stream->Finish());
             }, "finish"));
  return object;
}

// ---- zlib's identity

Napi::Value ZlibVersion(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), zlibVersion()); }

// Node exports zlib symbols of its own, of another version and configuration. Ours is linked statically; were the linker
// options lost, calls would quietly reach Node's. The header may be Node's copy (its include directory comes first): that is
// fine by zlib's own rule, which asks for the same first digit and the same size of z_stream (checked by inflateInit2).
bool ZlibIsOurs() {
  Dl_info zlib, addon;
  return dladdr(reinterpret_cast<void*>(&::inflate), &zlib) != 0 &&
         dladdr(reinterpret_cast<void*>(&OpenGzipRecorder), &addon) != 0 && zlib.dli_fbase == addon.dli_fbase &&
         zlibVersion()[0] == ZLIB_VERSION[0];
}

}  // namespace

void InitInflate(Napi::Env env, Napi::Object exports) {
  if (!ZlibIsOurs())
    throw ToError(env, Status{EIO, "internal", "native addon: calls to zlib do not reach the one it was linked with; rebuild it with "
                                               "scripts/build-native"});
  exports.Set("decodeSpan", Napi::Function::New(env, DecodeSpan, "decodeSpan"));
  exports.Set("readZinfoTable", Napi::Function::New(env, ReadZinfoTable, "readZinfoTable"));
  exports.Set("openGzipRecorder", Napi::Function::New(env, OpenGzipRecorder, "openGzipRecorder"));
  exports.Set("openZstdStream", Napi::Function::New(env, OpenZstdStream, "openZstdStream"));
  exports.Set("zlibVersion", Napi::Function::New(env, ZlibVersion, "zlibVersion"));
}

}  // namespace ocifs
