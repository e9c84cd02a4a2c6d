
#include "../base/async.h"
#include "../base/napi_util.h"
#include "kernel_mount.h"

namespace ocifs {
namespace {

// mountFuseDetached() → {fuseFd, mountFd}
Napi::Value MountFuseDetached(const Napi::CallbackInfo& info) {
  int fuse = -1, mounted = -1;
  ThrowIfFailed(info.Env(), mount::MountFuseDetached(&fuse, &mounted));
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("fuseFd", fuse);
  out.Set("mountFd", mounted);
  return out;
}

// mountErofs({target, source, imageFd, deviceFds, options: [[key, value]], attributes}) → Promise
Napi::Value MountErofs(const Napi::CallbackInfo& info) {
  const Napi::Object o = info[0].As<Napi::Object>();
  mount::ErofsMount m;
  m.source = o.Get("source").ToString();
  m.image_fd = ToInt(o.Get("imageFd"), "imageFd");
  m.attributes = static_cast<uint32_t>(ToInt(o.Get("attributes"), "attributes"));
  const Napi::Array devices = o.Get("deviceFds").As<Napi::Array>();
  for (uint32_t i = 0; i < devices.Length(); i++) m.device_fds.push_back(ToInt(devices.Get(i), "deviceFds"));
  const Napi::Array options = o.Get("options").As<Napi::Array>();
  for (uint32_t i = 0; i < options.Length(); i++) {
    const Napi::Array pair = options.Get(i).As<Napi::Array>();
    m.options.emplace_back(pair.Get(0u).ToString(), pair.Get(1u).ToString());
  }
  const std::string target = o.Get("target").ToString();
  return AsyncTask::Run(
      info.Env(), [m, target] { return mount::MountErofs(m, target); },
      [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

// probeFileSystem(type) → Promise; rejects with the reason. On a pool thread: it may load a module.
Napi::Value ProbeFileSystem(const Napi::CallbackInfo& info) {
  const std::string type = info[0].ToString();
  return AsyncTask::Run(
      info.Env(), [type] { return mount::ProbeFileSystem(type); },
      [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

}  // namespace

void InitMount(Napi::Env env, Napi::Object exports) {
  exports.Set("mountFuseDetached", Napi::Function::New(env, MountFuseDetached));
  exports.Set("mountErofs", Napi::Function::New(env, MountErofs));
  exports.Set("probeFileSystem", Napi::Function::New(env, ProbeFileSystem));
}
}  // namespace ocifs
