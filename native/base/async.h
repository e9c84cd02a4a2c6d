// A piece of core work on a pool thread as a JS promise: Execute runs `work` (no N-API), then the promise settles with
// `result(env)` or an Error made of the Status. Values passed in `keep` stay alive meanwhile.
#pragma once
#include <napi.h>

#include <functional>
#include <utility>
#include <vector>

#include "napi_util.h"

namespace ocifs {

class AsyncTask : public Napi::AsyncWorker {
 public:
  using Work = std::function<Status()>;
  using Result = std::function<Napi::Value(Napi::Env)>;

  static Napi::Value Run(Napi::Env env, Work work, Result result, const std::vector<Napi::Value>& keep = {}) {
    auto* task = new AsyncTask(env, std::move(work), std::move(result));
    for (const auto& v : keep)
      if (v.IsObject()) task->keep_.push_back(Napi::Persistent(v.As<Napi::Object>()));
    Napi::Promise promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

  void Execute() override { status_ = work_(); }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (status_.ok())
      deferred_.Resolve(result_(Env()));
    else
      deferred_.Reject(ToError(Env(), status_).Value());
  }

 private:
  AsyncTask(Napi::Env env, Work work, Result result)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), result_(std::move(result)) {}
  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Status status_;
  std::vector<Napi::ObjectReference> keep_;
};

}  // namespace ocifs
