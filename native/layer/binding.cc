#include "binding.h"

#include <algorithm>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "span_fill.h"

namespace ocifs {
namespace {

using layer::SpanStore;

template <size_t N>
std::array<uint8_t, N> ToBytes(const Napi::Value& v, const char* what) {
  std::array<uint8_t, N> out{};
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array || v.As<Napi::Uint8Array>().ByteLength() != N)
    throw ToError(v.Env(), Status::Usage(std::string(what) + " must be " + std::to_string(N) + " bytes"));
  std::memcpy(out.data(), v.As<Napi::Uint8Array>().Data(), N);
  return out;
}

std::optional<std::array<uint8_t, 32>> ToDigest(const Napi::Value& v) {
  if (v.IsUndefined() || v.IsNull()) return std::nullopt;
  return ToBytes<32>(v, "digest");
}

int64_t ToOffset(const Napi::Value& v, const char* what) {
  if (v.IsNumber() && v.As<Napi::Number>().DoubleValue() == -1) return -1;
  return static_cast<int64_t>(ToU64(v, what));
}

int ToFd(const Napi::Value& v, const char* what) { return static_cast<int>(std::max<int64_t>(ToOffset(v, what), -1)); }

// A promise that waits for spans. It does not keep the process alive.
class WaitingPromise : public layer::Waiter {
 public:
  explicit WaitingPromise(Napi::Env env)
      : deferred_(Napi::Promise::Deferred::New(env)),
        settle_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "ocifs-wait", 0, 1)) {
    settle_.Unref(env);
  }
  Napi::Promise promise() const { return deferred_.Promise(); }
  void OnReady() override { Settle(0); }
  void OnError(int err) override { Settle(err); }

 private:
  // Once: who waits is called once.
  void Settle(int err) {
    settle_.BlockingCall([deferred = deferred_, err](Napi::Env env, Napi::Function) { deferred.Resolve(Napi::Number::New(env, err)); });
    settle_.Release();
  }
  Napi::Promise::Deferred deferred_;
  Napi::ThreadSafeFunction settle_;
};

class SpanStoreObject : public Napi::ObjectWrap<SpanStoreObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "SpanStore",
                       {InstanceMethod<&SpanStoreObject::State>("state"), InstanceMethod<&SpanStoreObject::Present>("present"),
                        InstanceMethod<&SpanStoreObject::Absent>("absent"), InstanceMethod<&SpanStoreObject::Stats>("stats"),
                        InstanceMethod<&SpanStoreObject::SpanAt>("spanAt"), InstanceMethod<&SpanStoreObject::Read>("read"),
                        InstanceMethod<&SpanStoreObject::Fill>("fill"), InstanceMethod<&SpanStoreObject::Check>("checkSuspect"),
                        InstanceMethod<&SpanStoreObject::Fail>("fail"), InstanceMethod<&SpanStoreObject::Flush>("flushClean"),
                        InstanceMethod<&SpanStoreObject::RetryDisk>("retryDisk"),
                        InstanceMethod<&SpanStoreObject::Evict>("evict"),
                        InstanceMethod<&SpanStoreObject::TryEvict>("tryEvict"),
                        InstanceMethod<&SpanStoreObject::LeastRecent>("leastRecent"), InstanceMethod<&SpanStoreObject::Adopt>("adopt"),
                        InstanceMethod<&SpanStoreObject::Wake>("wake"), InstanceMethod<&SpanStoreObject::Lend>("lend"),
                        InstanceMethod<&SpanStoreObject::Park>("park"),
                        InstanceMethod<&SpanStoreObject::Watch>("watch"),
                        InstanceMethod<&SpanStoreObject::TrustSuspect>("trustSuspect"),
                        InstanceMethod<&SpanStoreObject::ForgetMemory>("forgetMemory"),
                        InstanceMethod<&SpanStoreObject::Close>("close")});
  }

  explicit SpanStoreObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SpanStoreObject>(info) {
    Napi::Env env = info.Env();
    Napi::Object o = info[0].As<Napi::Object>();
    SpanStore::Options opt;
    opt.partition = ToBytes<32>(o.Get("partition"), "partition");
    opt.boot_id = ToBytes<16>(o.Get("bootId"), "bootId");
    opt.memory_bytes = ToU64(o.Get("memoryBytes"), "memoryBytes");
    Napi::Value starts = o.Get("outStarts");
    if (!starts.IsTypedArray() || starts.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
      throw ToError(env, Status::Usage("outStarts must be a Float64Array"));
    auto array = starts.As<Napi::Float64Array>();
    opt.out_starts.reserve(array.ElementLength());
    for (size_t i = 0; i < array.ElementLength(); i++) {
      const double d = array[i];
      if (!(d >= 0 && d <= 9007199254740991.0)) throw ToError(env, Status::Usage("outStarts holds a number out of range"));
      opt.out_starts.push_back(static_cast<uint64_t>(d));
    }
    opt.data_fd = ToFd(o.Get("dataFd"), "dataFd");
    opt.spans_fd = ToFd(o.Get("spansFd"), "spansFd");
    ThrowIfFailed(env, SpanStore::Open(std::move(opt), &store_));
  }

  std::shared_ptr<SpanStore> store() const { return store_; }

 private:
  std::shared_ptr<SpanStore> Live(Napi::Env env) const {
    if (!store_) throw ToError(env, Status{EBADF, "aborted", "the layer's cache is closed"});
    return store_;
  }
  uint64_t Span(const Napi::CallbackInfo& info, size_t i) const {
    const uint64_t span = ToU64(info[i], "span");
    if (span >= Live(info.Env())->span_count()) throw ToError(info.Env(), Status::Usage("span number out of range"));
    return span;
  }

  // park(first, last) → Promise of 0, or of the errno with which somebody fails one of these spans.
  Napi::Value Park(const Napi::CallbackInfo& info) {
    const layer::SpanRange range{Span(info, 0), Span(info, 1)};
    auto waiter = std::make_shared<WaitingPromise>(info.Env());
    Napi::Promise promise = waiter->promise();
    if (!store_->Park(range, waiter)) waiter->OnReady();
    return promise;
  }
  // lend() → fd or -1
  Napi::Value Lend(const Napi::CallbackInfo& info) {
    int fd = -1;
    ThrowIfFailed(info.Env(), Live(info.Env())->Lend(&fd));
    return Napi::Number::New(info.Env(), fd);
  }
  // watch() → Promise of a descriptor
  Napi::Value Watch(const Napi::CallbackInfo& info) {
    auto store = Live(info.Env());
    auto fd = std::make_shared<int>(-1);
    return AsyncTask::Run(
        info.Env(), [store, fd] { return store->Watch(fd.get()); },
        [fd](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *fd); });
  }
  Napi::Value State(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), Live(info.Env())->state(Span(info, 0)));
  }
  Napi::Value Present(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), Live(info.Env())->present(Span(info, 0)));
  }
  Napi::Value Absent(const Napi::CallbackInfo& info) {
    const uint64_t first = Span(info, 0), last = Span(info, 1);
    Napi::Array out = Napi::Array::New(info.Env());
    uint32_t n = 0;
    for (uint64_t i = first; i <= last; i++)
      if (!store_->present(i)) out.Set(n++, Napi::Number::New(info.Env(), static_cast<double>(i)));
    return out;
  }
  Napi::Value Stats(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("spans", static_cast<double>(s->span_count()));
    out.Set("presentSpans", static_cast<double>(s->present_count()));
    out.Set("presentBytes", static_cast<double>(s->present_bytes()));
    out.Set("sizeBytes", static_cast<double>(s->size_bytes()));
    out.Set("dataSpans", static_cast<double>(s->data_count()));
    out.Set("generation", static_cast<double>(s->evict_generation()));
    out.Set("diskOk", s->disk_ok());
    return out;
  }
  Napi::Value SpanAt(const Napi::CallbackInfo& info) {
    const uint64_t offset = ToU64(info[0], "offset");
    auto s = Live(info.Env());
    if (offset >= s->size_bytes()) throw ToError(info.Env(), Status::Usage("offset past the layer's end"));
    return Napi::Number::New(info.Env(), static_cast<double>(s->SpanAt(offset)));
  }
  // read(offset, Uint8Array) → true, or {first, last} of the spans that are missing.
  Napi::Value Read(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    const uint64_t offset = ToU64(info[0], "offset");
    auto buffer = info[1].As<Napi::Uint8Array>();
    uint8_t* data = buffer.Data();
    const size_t size = buffer.ByteLength();
    struct Out {
      bool ready = false;
      layer::SpanRange missing;
    };
    auto out = std::make_shared<Out>();
    return AsyncTask::Run(
        info.Env(), [=] { return s->Read(offset, size, data, &out->ready, &out->missing); },
        [out](Napi::Env env) -> Napi::Value {
          if (out->ready) return Napi::Boolean::New(env, true);
          Napi::Object o = Napi::Object::New(env);
          o.Set("first", static_cast<double>(out->missing.first));
          o.Set("last", static_cast<double>(out->missing.last));
          return o;
        },
        {info[1]});
  }
  Napi::Value Fill(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    Napi::Object o = info[0].As<Napi::Object>();
    layer::FillInput in;
    in.span = ToU64(o.Get("span"), "span");
    in.gzip = o.Get("gzip").ToBoolean();
    in.fd = ToFd(o.Get("fd"), "fd");
    in.begin = ToU64(o.Get("begin"), "begin");
    in.end = ToU64(o.Get("end"), "end");
    in.bits = static_cast<uint8_t>(ToInt(o.Get("bits"), "bits") & 7);
    in.at_header = o.Get("atHeader").ToBoolean();
    in.last = o.Get("last").ToBoolean();
    in.zinfo_fd = ToFd(o.Get("zinfoFd"), "zinfoFd");
    in.window_offset = ToOffset(o.Get("windowOffset"), "windowOffset");
    in.next_window_offset = ToOffset(o.Get("nextWindowOffset"), "nextWindowOffset");
    in.digest = ToDigest(o.Get("digest"));
    in.discard = o.Get("discard").ToBoolean();
    in.only_memory = o.Get("onlyMemory").ToBoolean();
    struct Told {
      std::string degraded;
      layer::FillTimes times;
    };
    auto told = std::make_shared<Told>();
    return AsyncTask::Run(
        info.Env(), [=] { return layer::FillSpan(*s, in, &told->degraded, &told->times); },
        [told](Napi::Env env) -> Napi::Value {
          Napi::Object out = Napi::Object::New(env);
          if (!told->degraded.empty()) out.Set("degraded", told->degraded);
          out.Set("beganMs", static_cast<double>(told->times.began_ns) / 1e6);
          out.Set("filledMs", static_cast<double>(told->times.filled_ns) / 1e6);
          out.Set("digestMs", static_cast<double>(told->times.digest_ns) / 1e6);
          return out;
        });
  }
  Napi::Value Check(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    const uint64_t span = Span(info, 0);
    auto digest = ToDigest(info[1]);
    auto good = std::make_shared<bool>(false);
    return AsyncTask::Run(
        info.Env(), [=] { return layer::CheckSuspect(*s, span, digest, good.get()); },
        [good](Napi::Env env) -> Napi::Value { return Napi::Boolean::New(env, *good); });
  }
  void Fail(const Napi::CallbackInfo& info) {
    // A store that is closed has failed everyone already.
    if (store_) store_->Fail({ToU64(info[0], "first"), ToU64(info[1], "last")}, ToInt(info[2], "errno"));
  }
  Napi::Value Flush(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    return AsyncTask::Run(
        info.Env(), [=] { return s->FlushClean(); }, [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
  }
  // adopt(first, last) → how many became present. On a pool thread: two system calls a span.
  Napi::Value Adopt(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    const layer::SpanRange range{Span(info, 0), Span(info, 1)};
    auto adopted = std::make_shared<uint64_t>(0);
    return AsyncTask::Run(
        info.Env(), [=] { return s->Adopt(range, adopted.get()); },
        [adopted](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(*adopted)); });
  }
  // On a pool thread: it waits for writers, also those of other processes.
  Napi::Value Evict(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    const layer::SpanRange range{Span(info, 0), Span(info, 1)};
    return AsyncTask::Run(
        info.Env(), [=] { return s->Evict(range); }, [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
  }
  // tryEvict([span, …]) → Promise of the bytes given back. On a pool thread: a hole takes its time.
  Napi::Value TryEvict(const Napi::CallbackInfo& info) {
    auto s = Live(info.Env());
    Napi::Array list = info[0].As<Napi::Array>();
    std::vector<uint64_t> spans;
    for (uint32_t i = 0; i < list.Length(); i++) spans.push_back(ToU64(list.Get(i), "span"));
    auto freed = std::make_shared<uint64_t>(0);
    return AsyncTask::Run(
        info.Env(), [=] { return s->TryEvict(spans, freed.get()); },
        [freed](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(*freed)); });
  }
  // leastRecent(count) → [span, used, bytes, …]
  Napi::Value LeastRecent(const Napi::CallbackInfo& info) {
    Napi::Array out = Napi::Array::New(info.Env());
    uint32_t n = 0;
    for (const layer::SpanUse& use : Live(info.Env())->LeastRecent(ToU64(info[0], "count"))) {
      out.Set(n++, static_cast<double>(use.span));
      out.Set(n++, static_cast<double>(use.used));
      out.Set(n++, static_cast<double>(use.bytes));
    }
    return out;
  }
  // wake(first, last) → whether all of them are present.
  Napi::Value Wake(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), Live(info.Env())->Wake({Span(info, 0), Span(info, 1)}));
  }
  void RetryDisk(const Napi::CallbackInfo& info) { Live(info.Env())->RetryDisk(); }
  void TrustSuspect(const Napi::CallbackInfo& info) { Live(info.Env())->TrustSuspect(); }
  void ForgetMemory(const Napi::CallbackInfo& info) { Live(info.Env())->ForgetMemory(); }
  // Work that runs holds the store; it goes with the last of it.
  void Close(const Napi::CallbackInfo&) { store_.reset(); }

  std::shared_ptr<SpanStore> store_;
};

struct LayerData {
  Napi::FunctionReference store_class;
};
// Per environment, found through the exports of this component only.
thread_local std::shared_ptr<LayerData> layer_data;

}  // namespace

std::shared_ptr<layer::SpanStore> UnwrapSpanStore(const Napi::Value& v) {
  if (!layer_data || !v.IsObject() || !v.As<Napi::Object>().InstanceOf(layer_data->store_class.Value()))
    throw ToError(v.Env(), Status::Usage("not a SpanStore"));
  auto store = SpanStoreObject::Unwrap(v.As<Napi::Object>())->store();
  if (!store) throw ToError(v.Env(), Status::Usage("the SpanStore is closed"));
  return store;
}

void InitLayer(Napi::Env env, Napi::Object exports) {
  Napi::Function f = SpanStoreObject::Define(env);
  layer_data = std::make_shared<LayerData>();
  layer_data->store_class = Napi::Persistent(f);
  env.AddCleanupHook([] { layer_data.reset(); });
  exports.Set("SpanStore", f);
}
}  // namespace ocifs
