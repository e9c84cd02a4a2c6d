
#include <memory>

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

// mountErofs({source, imageFd, deviceFds, options: [[key, value]], attributes}) → Promise of the mount's descriptor
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
  auto fd = std::make_shared<int>(-1);
  return AsyncTask::Run(
      info.Env(), [m, fd] { return mount::MountErofs(m, fd.get()); },
      [fd](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *fd); });
}

// attachMount(fd, target) → Promise
Napi::Value AttachMount(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const std::string target = info[1].ToString();
  return AsyncTask::Run(
      info.Env(), [fd, target] { return mount::AttachMount(fd, target); },
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
  exports.Set("attachMount", Napi::Function::New(env, AttachMount));
  exports.Set("probeFileSystem", Napi::Function::New(env, ProbeFileSystem));
}
}  // namespace ocifs
