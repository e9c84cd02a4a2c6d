#include "../base/async.h"
#include "../base/napi_util.h"
#include "../erofs/binding.h"
#include "../layer/binding.h"
#include "device_files.h"
#include "session.h"
#include "tree_files.h"

namespace ocifs {
namespace {

// What the session shows: "tree", or the files below a file system of the kernel's own: "devices", "flat".
Status CreateFiles(const std::string& what, std::shared_ptr<erofs::Image> image,
                   std::vector<std::shared_ptr<layer::SpanStore>> devices, std::unique_ptr<fuse::FileSystem>* out) {
  if (what == "tree") return fuse::TreeFiles::Create(std::move(image), std::move(devices), out);
  if (what == "devices")
    return fuse::DeviceFiles::Create(std::move(image), std::move(devices), fuse::DeviceLayout::kPerLayer, out);
  if (what == "flat") return fuse::DeviceFiles::Create(std::move(image), std::move(devices), fuse::DeviceLayout::kFlat, out);
  return Status::Usage("FUSE session: files " + what + " are not known");
}

class FuseSessionObject : public Napi::ObjectWrap<FuseSessionObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "FuseSession",
                       {InstanceMethod<&FuseSessionObject::Stats>("stats"), InstanceMethod<&FuseSessionObject::Resend>("resend"),
                        InstanceMethod<&FuseSessionObject::Fds>("fds"),
                        InstanceMethod<&FuseSessionObject::Stop>("stop")});
  }

  // new FuseSession({fds, workers, files, image, devices, onMiss(device, first, last, fileEnd, parkedMs), onEnd(errno)})
  explicit FuseSessionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FuseSessionObject>(info) {
    Napi::Env env = info.Env();
    Napi::Object o = info[0].As<Napi::Object>();
    fuse::Session::Options opt;
    Napi::Array fds = o.Get("fds").As<Napi::Array>();
    for (uint32_t i = 0; i < fds.Length(); i++) opt.fds.push_back(ToInt(fds.Get(i), "fd"));
    if (opt.fds.empty()) throw ToError(env, Status::Usage("a FUSE session needs its descriptor"));
    opt.workers = static_cast<unsigned>(ToInt(o.Get("workers"), "workers"));
    Napi::Array devices = o.Get("devices").As<Napi::Array>();
    std::vector<std::shared_ptr<layer::SpanStore>> stores;
    for (uint32_t i = 0; i < devices.Length(); i++) stores.push_back(UnwrapSpanStore(devices.Get(i)));
    ThrowIfFailed(env, CreateFiles(o.Get("files").ToString(), UnwrapImage(o.Get("image")), std::move(stores), &opt.files));
    // Unbounded queue, but each entry is one parked kernel request, of which the kernel allows few.
    miss_ = Napi::ThreadSafeFunction::New(env, o.Get("onMiss").As<Napi::Function>(), "ocifs-miss", 0, 1);
    end_ = Napi::ThreadSafeFunction::New(env, o.Get("onEnd").As<Napi::Function>(), "ocifs-end", 0, 1);
    opt.on_miss = [f = miss_](const fuse::Miss& m) {
      f.NonBlockingCall([m](Napi::Env env, Napi::Function callback) {
        callback.Call({Napi::Number::New(env, m.device), Napi::Number::New(env, static_cast<double>(m.spans.first)),
                       Napi::Number::New(env, static_cast<double>(m.spans.last)),
                       Napi::Number::New(env, static_cast<double>(m.file_end_span)),
                       Napi::Number::New(env, static_cast<double>(m.parked_ns) / 1e6)});
      });
    };
    opt.on_end = [f = end_](int err) {
      f.NonBlockingCall([err](Napi::Env env, Napi::Function callback) { callback.Call({Napi::Number::New(env, err)}); });
    };
    Status s = fuse::Session::Start(std::move(opt), &session_);
    if (!s.ok()) {
      ReleaseFunctions();
      throw ToError(env, s);
    }
    // Worker threads must be gone before the environment is: they call into it.
    env_ = env;
    napi_add_env_cleanup_hook(env, CleanupHook, this);
  }

  ~FuseSessionObject() override {
    if (session_) {
      napi_remove_env_cleanup_hook(env_, CleanupHook, this);
      session_->Stop();
      ReleaseFunctions();
    }
  }

 private:
  static void CleanupHook(void* p) {
    auto* self = static_cast<FuseSessionObject*>(p);
    if (self->session_) self->session_->Stop();
    self->session_.reset();
  }

  void ReleaseFunctions() {
    miss_.Release();
    end_.Release();
  }

  // {seconds, counts}; bucket i of `counts` ends at 2^(12 + i) ns, the last nowhere.
  static Napi::Object ToObject(Napi::Env env, const fuse::Histogram& h) {
    Napi::Object out = Napi::Object::New(env);
    Napi::Array counts = Napi::Array::New(env, h.counts.size());
    for (uint32_t i = 0; i < h.counts.size(); i++) counts.Set(i, static_cast<double>(h.counts[i].load()));
    out.Set("counts", counts);
    out.Set("seconds", static_cast<double>(h.total_ns.load()) / 1e9);
    return out;
  }
  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    if (!session_) return out;
    const auto& c = session_->counters();
    out.Set("requests", static_cast<double>(c.requests.load()));
    out.Set("reads", static_cast<double>(c.reads.load()));
    out.Set("readBytes", static_cast<double>(c.read_bytes.load()));
    out.Set("parked", static_cast<double>(c.parked.load()));
    out.Set("interrupted", static_cast<double>(c.interrupted.load()));
    out.Set("errors", static_cast<double>(c.errors.load()));
    out.Set("waitedBytes", static_cast<double>(c.waited_bytes.load()));
    out.Set("hitTime", ToObject(info.Env(), c.hit_time));
    out.Set("waitTime", ToObject(info.Env(), c.wait_time));
    return out;
  }
  Napi::Value Fds(const Napi::CallbackInfo& info) {
    Napi::Array out = Napi::Array::New(info.Env());
    uint32_t n = 0;
    if (session_)
      for (const int fd : session_->fds()) out.Set(n++, Napi::Number::New(info.Env(), fd));
    return out;
  }
  void Resend(const Napi::CallbackInfo& info) {
    if (session_) ThrowIfFailed(info.Env(), session_->Resend());
  }
  // stop(answer) → Promise: joins the workers on a pool thread.
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    const auto parked = info[0].ToBoolean() ? fuse::Parked::kFail : fuse::Parked::kLeave;
    auto s = std::move(session_);
    session_.reset();
    if (s) napi_remove_env_cleanup_hook(env_, CleanupHook, this);
    return AsyncTask::Run(
        info.Env(),
        [s, parked] {
          if (s) s->Stop(parked);
          return Status::Ok();
        },
        // Only now: the workers call these functions until they are joined.
        [s, miss = miss_, end = end_](Napi::Env env) mutable -> Napi::Value {
          if (s) {
            miss.Release();
            end.Release();
          }
          return env.Undefined();
        });
  }

  napi_env env_ = nullptr;
  Napi::ThreadSafeFunction miss_, end_;
  std::shared_ptr<fuse::Session> session_;
};

}  // namespace

void InitFuse(Napi::Env env, Napi::Object exports) {
  exports.Set("FuseSession", FuseSessionObject::Define(env));
}
}  // namespace ocifs
