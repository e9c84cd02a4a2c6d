#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "../layer/binding.h"
#include "group.h"
#include "watcher.h"

namespace ocifs {
namespace {

// createEventGroup() → {groupFd, tableFd}
Napi::Value CreateEventGroup(const Napi::CallbackInfo& info) {
  int group = -1, table = -1;
  ThrowIfFailed(info.Env(), fanotify::CreateGroup(&group));
  if (Status s = fanotify::EventTable::Create(&table); !s.ok()) {
    close(group);
    throw ToError(info.Env(), s);
  }
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("groupFd", group);
  out.Set("tableFd", table);
  return out;
}

// markData(groupFd, fd)
void MarkData(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), fanotify::MarkData(ToInt(info[0], "groupFd"), ToInt(info[1], "fd")));
}

// markRelease(groupFd, fd)
void MarkRelease(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), fanotify::MarkRelease(ToInt(info[0], "groupFd"), ToInt(info[1], "fd")));
}

Status OpenGuard(const Napi::Value& pid, int* fd) {
  if (!pid.IsNumber()) return Status::Ok();
  *fd = static_cast<int>(syscall(SYS_pidfd_open, pid.As<Napi::Number>().Int32Value(), 0));
  return *fd < 0 ? Status::Errno(errno, "pidfd_open of the keeper") : Status::Ok();
}

class EventWatcherObject : public Napi::ObjectWrap<EventWatcherObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "EventWatcher",
                       {InstanceMethod<&EventWatcherObject::Stats>("stats"), InstanceMethod<&EventWatcherObject::Fds>("fds"),
                        InstanceMethod<&EventWatcherObject::Refuse>("refuse"), InstanceMethod<&EventWatcherObject::Stop>("stop")});
  }

  // new EventWatcher({groupFd, tableFd, indexFd, guardPid, adopted, devices, checked, onMiss(device, first, last), onReleased(), onGuardGone()})
  explicit EventWatcherObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EventWatcherObject>(info) {
    Napi::Env env = info.Env();
    Napi::Object o = info[0].As<Napi::Object>();
    fanotify::Watcher::Options opt;
    Napi::Array devices = o.Get("devices").As<Napi::Array>();
    for (uint32_t i = 0; i < devices.Length(); i++) opt.devices.push_back(UnwrapSpanStore(devices.Get(i)));
    Napi::Array checked = o.Get("checked").As<Napi::Array>();
    for (uint32_t i = 0; i < checked.Length(); i++) opt.checked.push_back(checked.Get(i).ToBoolean());
    const int group = ToInt(o.Get("groupFd"), "groupFd"), table = ToInt(o.Get("tableFd"), "tableFd"),
              index = ToInt(o.Get("indexFd"), "indexFd");
    if (Status s = OpenGuard(o.Get("guardPid"), &opt.guard_fd); !s.ok()) {
      for (const int fd : {group, table, index}) close(fd);
      throw ToError(env, s);
    }
    opt.group_fd = group;
    opt.table_fd = table;
    opt.index_fd = index;
    opt.adopted = o.Get("adopted").ToBoolean();
    // Unbounded queue, but each entry is one event of the table, which is bounded.
    miss_ = Napi::ThreadSafeFunction::New(env, o.Get("onMiss").As<Napi::Function>(), "ocifs-event-miss", 0, 1);
    released_ = Napi::ThreadSafeFunction::New(env, o.Get("onReleased").As<Napi::Function>(), "ocifs-released", 0, 1);
    guard_ = Napi::ThreadSafeFunction::New(env, o.Get("onGuardGone").As<Napi::Function>(), "ocifs-guard", 0, 1);
    opt.on_miss = [f = miss_](const fanotify::Miss& m) {
      f.NonBlockingCall([m](Napi::Env env, Napi::Function callback) {
        callback.Call({Napi::Number::New(env, m.device), Napi::Number::New(env, static_cast<double>(m.spans.first)),
                       Napi::Number::New(env, static_cast<double>(m.spans.last))});
      });
    };
    const auto plain = [](Napi::Env, Napi::Function callback) { callback.Call({}); };
    opt.on_released = [f = released_, plain] { f.NonBlockingCall(plain); };
    opt.on_guard_gone = [f = guard_, plain] { f.NonBlockingCall(plain); };
    if (Status s = fanotify::Watcher::Start(std::move(opt), &watcher_); !s.ok()) {
      ReleaseFunctions();
      throw ToError(env, s);
    }
    env_ = env;
    napi_add_env_cleanup_hook(env, CleanupHook, this);
  }

  ~EventWatcherObject() override {
    if (watcher_) {
      napi_remove_env_cleanup_hook(env_, CleanupHook, this);
      watcher_->Stop(fanotify::Watcher::Waiting::kLeave);
      ReleaseFunctions();
    }
  }

 private:
  static void CleanupHook(void* p) {
    auto* self = static_cast<EventWatcherObject*>(p);
    if (self->watcher_) self->watcher_->Stop(fanotify::Watcher::Waiting::kLeave);
    self->watcher_.reset();
  }

  void ReleaseFunctions() {
    miss_.Release();
    released_.Release();
    guard_.Release();
  }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    if (!watcher_) return out;
    const auto& c = watcher_->counters();
    out.Set("events", static_cast<double>(c.events.load()));
    out.Set("bytes", static_cast<double>(c.bytes.load()));
    out.Set("parked", static_cast<double>(c.parked.load()));
    out.Set("denied", static_cast<double>(c.denied.load()));
    return out;
  }
  Napi::Value Fds(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    if (!watcher_) return out;
    out.Set("groupFd", watcher_->group_fd());
    out.Set("tableFd", watcher_->table_fd());
    out.Set("indexFd", watcher_->index_fd());
    return out;
  }
  void Refuse(const Napi::CallbackInfo&) {
    if (watcher_) watcher_->Refuse();
  }
  // stop(answer) → Promise: joins the threads on a pool thread, then closes the descriptors.
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    const auto waiting = info[0].ToBoolean() ? fanotify::Watcher::Waiting::kDeny : fanotify::Watcher::Waiting::kLeave;
    auto w = std::make_shared<std::shared_ptr<fanotify::Watcher>>(std::move(watcher_));
    watcher_.reset();
    if (*w) napi_remove_env_cleanup_hook(env_, CleanupHook, this);
    return AsyncTask::Run(
        info.Env(),
        [w, waiting] {
          if (*w) (*w)->Stop(waiting);
          return Status::Ok();
        },
        // Only now: the threads call these functions until they are joined.
        [w, miss = miss_, released = released_, guard = guard_](Napi::Env env) mutable -> Napi::Value {
          if (*w) {
            miss.Release();
            released.Release();
            guard.Release();
          }
          w->reset();
          return env.Undefined();
        });
  }

  napi_env env_ = nullptr;
  Napi::ThreadSafeFunction miss_, released_, guard_;
  std::shared_ptr<fanotify::Watcher> watcher_;
};

}  // namespace

void InitFanotify(Napi::Env env, Napi::Object exports) {
  exports.Set("createEventGroup", Napi::Function::New(env, CreateEventGroup));
  exports.Set("markData", Napi::Function::New(env, MarkData));
  exports.Set("markRelease", Napi::Function::New(env, MarkRelease));
  exports.Set("EventWatcher", EventWatcherObject::Define(env));
}
}  // namespace ocifs
