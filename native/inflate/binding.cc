#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../base/napi_util.h"
#include "recorder.h"
#include "span_decoder.h"
#include "zinfo_table.h"

namespace ocifs {
namespace {

using inflate::kWindowBytes;

constexpr uint64_t kMaxDecodedBytes = 64 << 20;
constexpr uint64_t kMaxTableRecords = 1 << 24;
constexpr uint64_t kMinSpanBytes = kWindowBytes;

// A duplicate, so that the caller may close its own while work on a pool thread still uses the file.
class OwnedFd {
 public:
  OwnedFd(Napi::Env env, int fd, const char* what) : fd_(fcntl(fd, F_DUPFD_CLOEXEC, 3)) {
    if (fd_ < 0) throw ToError(env, Status::Errno(errno, std::string(what) + ": duplicate its file descriptor"));
  }
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  ~OwnedFd() { close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

Napi::Uint8Array ToBytes(const Napi::Value& v, const char* what) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw ToError(v.Env(), Status::Usage(std::string(what) + " must be a Uint8Array"));
  return v.As<Napi::Uint8Array>();
}

Napi::Object ToOptions(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw ToError(info.Env(), Status::Usage("the options must be an object"));
  return info[0].As<Napi::Object>();
}

bool IsSet(const Napi::Object& o, const char* name) { return o.Get(name).ToBoolean().Value(); }

// Runs on a pool thread and settles a promise.
class PromiseWorker : public Napi::AsyncWorker {
 public:
  explicit PromiseWorker(Napi::Env env) : AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise Start() {
    Napi::Promise p = deferred_.Promise();
    Queue();
    return p;
  }

 protected:
  virtual Status Work() = 0;
  virtual Napi::Value Result(Napi::Env env) = 0;
  virtual void Settled() {}

  void Execute() override { status_ = Work(); }
  void OnOK() override {
    Settled();
    if (status_.ok())
      deferred_.Resolve(Result(Env()));
    else
      deferred_.Reject(ToError(Env(), status_).Value());
  }
  void OnError(const Napi::Error& e) override {  // Work threw: out of memory
    Settled();
    deferred_.Reject(e.Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  Status status_;
};

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

// Held by the JavaScript object's functions and by a step in flight, whichever lives longer.
struct RecorderState {
  struct Open {
    Open(Napi::Env env, int zinfo_fd, uint64_t span_size, uint64_t max_checkpoints, bool zlib)
        : fd(env, zinfo_fd, "zinfo"), recorder(inflate::Recorder::Create({fd.get(), span_size, max_checkpoints, zlib})) {}
    OwnedFd fd;
    std::unique_ptr<inflate::Recorder> recorder;
  };
  std::unique_ptr<Open> open;
  bool busy = false, closed = false;  // JavaScript's thread only

  inflate::Recorder& Idle(Napi::Env env) const {
    if (closed) throw ToError(env, Status::Usage("gzip recorder: used after it was closed"));
    if (busy) throw ToError(env, Status::Usage("gzip recorder: used while a step is running"));
    return *open->recorder;
  }
  void CloseIfIdle() {
    if (closed && !busy) open.reset();
  }
};

class StepWorker final : public PromiseWorker {
 public:
  StepWorker(Napi::Env env, std::shared_ptr<RecorderState> state, Napi::Uint8Array in, Napi::Uint8Array out)
      : PromiseWorker(env),
        state_(std::move(state)),
        in_(in.Data()),
        out_(out.Data()),
        in_size_(in.ByteLength()),
        out_size_(out.ByteLength()),
        in_ref_(Napi::Persistent(in)),
        out_ref_(Napi::Persistent(out)) {
    state_->busy = true;
  }

 protected:
  Status Work() override { return state_->open->recorder->Step(in_, in_size_, out_, out_size_, &consumed_, &produced_); }
  void Settled() override {
    state_->busy = false;
    state_->CloseIfIdle();
  }
  Napi::Value Result(Napi::Env env) override {
    Napi::Object r = Napi::Object::New(env);
    r.Set("consumed", Napi::Number::New(env, static_cast<double>(consumed_)));
    r.Set("produced", Napi::Number::New(env, static_cast<double>(produced_)));
    return r;
  }

 private:
  std::shared_ptr<RecorderState> state_;
  const uint8_t* const in_;
  uint8_t* const out_;
  const size_t in_size_, out_size_;
  Napi::Reference<Napi::Uint8Array> in_ref_, out_ref_;  // keep the memory alive
  size_t consumed_ = 0, produced_ = 0;
};

Napi::Value Finish(Napi::Env env, RecorderState& state) {
  inflate::Recorded r;
  ThrowIfFailed(env, state.Idle(env).Finish(&r));
  Napi::Uint8Array digests = Napi::Uint8Array::New(env, r.span_digests.size());
  if (!r.span_digests.empty()) std::memcpy(digests.Data(), r.span_digests.data(), r.span_digests.size());
  Napi::Object o = Napi::Object::New(env);
  o.Set("compressedSizeBytes", Napi::Number::New(env, static_cast<double>(r.compressed_size)));
  o.Set("uncompressedSizeBytes", Napi::Number::New(env, static_cast<double>(r.uncompressed_size)));
  o.Set("checkpointCount", Napi::Number::New(env, static_cast<double>(r.checkpoint_count)));
  o.Set("trailingBytes", Napi::Number::New(env, static_cast<double>(r.trailing_bytes)));
  o.Set("spanDigests", digests);
  return o;
}

Napi::Value OpenRecorder(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Napi::Object options = ToOptions(info);
  const int fd = ToInt(options.Get("zinfoFd"), "zinfoFd");
  const uint64_t span_size = ToU64(options.Get("spanSizeBytes"), "spanSizeBytes");
  const uint64_t max_checkpoints = ToU64(options.Get("maxCheckpoints"), "maxCheckpoints");
  if (span_size < kMinSpanBytes)
    throw ToError(env, Status::Usage("gzip recorder: a span of " + std::to_string(span_size) +
                                     " bytes is smaller than its 32 KiB window; want at least 32768"));
  if (max_checkpoints > UINT32_MAX) throw ToError(env, Status::Usage("gzip recorder: a zinfo counts checkpoints in 32 bits"));
  auto state = std::make_shared<RecorderState>();
  state->open = std::make_unique<RecorderState::Open>(env, fd, span_size, max_checkpoints, IsSet(options, "zlib"));

  Napi::Object recorder = Napi::Object::New(env);
  recorder.Set("step", Napi::Function::New(env, [state](const Napi::CallbackInfo& call) -> Napi::Value {
                 state->Idle(call.Env());
                 const Napi::Uint8Array in = ToBytes(call[0], "input"), out = ToBytes(call[1], "output");
                 return (new StepWorker(call.Env(), state, in, out))->Start();
               }, "step"));
  recorder.Set("finish", Napi::Function::New(env, [state](const Napi::CallbackInfo& call) -> Napi::Value {
                 return Finish(call.Env(), *state);
               }, "finish"));
  recorder.Set("close", Napi::Function::New(env, [state](const Napi::CallbackInfo&) {
                 state->closed = true;
                 state->CloseIfIdle();
               }, "close"));
  return recorder;
}

// ---- zlib's identity

Napi::Value ZlibVersion(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), zlibVersion()); }

// Node exports zlib symbols of its own, of another version and configuration. Ours is linked statically; were the linker
// options lost, calls would quietly reach Node's. The header may be Node's copy (its include directory comes first): that is
// fine by zlib's own rule, which asks for the same first digit and the same size of z_stream (checked by inflateInit2).
bool ZlibIsOurs() {
  Dl_info zlib, addon;
  return dladdr(reinterpret_cast<void*>(&::inflate), &zlib) != 0 &&
         dladdr(reinterpret_cast<void*>(&OpenRecorder), &addon) != 0 && zlib.dli_fbase == addon.dli_fbase &&
         zlibVersion()[0] == ZLIB_VERSION[0];
}

}  // namespace

void InitInflate(Napi::Env env, Napi::Object exports) {
  if (!ZlibIsOurs())
    throw ToError(env, Status{EIO, "internal", "native addon: calls to zlib do not reach the one it was linked with; rebuild it with "
                                               "scripts/build-native"});
  exports.Set("decodeSpan", Napi::Function::New(env, DecodeSpan, "decodeSpan"));
  exports.Set("readZinfoTable", Napi::Function::New(env, ReadZinfoTable, "readZinfoTable"));
  exports.Set("openGzipRecorder", Napi::Function::New(env, OpenRecorder, "openGzipRecorder"));
  exports.Set("zlibVersion", Napi::Function::New(env, ZlibVersion, "zlibVersion"));
}

}  // namespace ocifs
