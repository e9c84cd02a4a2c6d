
#include <memory>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "kernel_mount.h"
#include "namespace.h"

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

// A namespace that is left out is this process' own.
std::string ToNamespace(const Napi::Value& v) { return v.IsString() ? v.ToString().Utf8Value() : std::string(); }

// attachMount(fd, target, namespace?) → Promise
Napi::Value AttachMount(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const std::string target = info[1].ToString(), ns = ToNamespace(info[2]);
  return AsyncTask::Run(
      info.Env(), [=] { return mount::Attach(ns, fd, target); }, [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

// mountFuse(target, source, flags, data, namespace?) → Promise of {fd, device}
Napi::Value MountFuse(const Napi::CallbackInfo& info) {
  const mount::FuseMount what{info[0].ToString(), info[1].ToString(), ToU64(info[2], "flags"), info[3].ToString()};
  const std::string ns = ToNamespace(info[4]);
  struct Made {
    int fd = -1;
    std::string device;
  };
  auto made = std::make_shared<Made>();
  return AsyncTask::Run(
      info.Env(), [=] { return mount::MountFuse(ns, what, &made->fd, &made->device); },
      [made](Napi::Env env) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("fd", made->fd);
        out.Set("device", made->device);
        return out;
      });
}

// unmount(target, lazy, device?, namespace?) → Promise. On a pool thread: umount(2) can wait for the file system's own answers.
Napi::Value Unmount(const Napi::CallbackInfo& info) {
  const std::string target = info[0].ToString(), device = info[2].IsString() ? info[2].ToString().Utf8Value() : std::string(),
                    ns = ToNamespace(info[3]);
  const bool lazy = info[1].ToBoolean();
  return AsyncTask::Run(
      info.Env(), [=] { return mount::Unmount(ns, target, lazy, device); },
      [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

// findDirectory(path, namespace?) → Promise of its real path
Napi::Value FindDirectory(const Napi::CallbackInfo& info) {
  const std::string path = info[0].ToString(), ns = ToNamespace(info[1]);
  auto real = std::make_shared<std::string>();
  return AsyncTask::Run(
      info.Env(), [=] { return mount::FindDirectory(ns, path, real.get()); },
      [real](Napi::Env env) -> Napi::Value { return Napi::String::New(env, *real); });
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
  exports.Set("mountFuse", Napi::Function::New(env, MountFuse));
  exports.Set("unmount", Napi::Function::New(env, Unmount));
  exports.Set("findDirectory", Napi::Function::New(env, FindDirectory));
  exports.Set("attachMount", Napi::Function::New(env, AttachMount));
  exports.Set("probeFileSystem", Napi::Function::New(env, ProbeFileSystem));
}
}  // namespace ocifs
