// What the N-API wrappers of this directory share.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "../base/napi_util.h"
#include "stepper.h"

namespace ocifs {

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

inline Napi::Uint8Array ToBytes(const Napi::Value& v, const char* what) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw ToError(v.Env(), Status::Usage(std::string(what) + " must be a Uint8Array"));
  return v.As<Napi::Uint8Array>();
}

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

// A Stepper of JavaScript's: `step` and `close` of an object. Held by the object's functions and by a step in flight,
// whichever lives longer. What the Stepper needs besides (a file) is its owner's: `Open` deletes both together.
template <class Open>
class StepperState : public std::enable_shared_from_this<StepperState<Open>> {
 public:
  StepperState(std::unique_ptr<Open> open, const char* what) : open_(std::move(open)), what_(what) {}

  Open& Idle(Napi::Env env) const {
    if (closed_) throw ToError(env, Status::Usage(std::string(what_) + ": used after it was closed"));
    if (busy_) throw ToError(env, Status::Usage(std::string(what_) + ": used while a step is running"));
    return *open_;
  }

  void AddTo(Napi::Object object) {
    Napi::Env env = object.Env();
    auto state = this->shared_from_this();
    object.Set("step", Napi::Function::New(env, [state](const Napi::CallbackInfo& call) -> Napi::Value {
                 state->Idle(call.Env());
                 const Napi::Uint8Array in = ToBytes(call[0], "input"), out = ToBytes(call[1], "output");
                 return (new Worker(call.Env(), state, in, out))->Start();
               }, "step"));
    object.Set("close", Napi::Function::New(env, [state](const Napi::CallbackInfo&) {
                 state->closed_ = true;
                 state->CloseIfIdle();
               }, "close"));
  }

 private:
  class Worker final : public PromiseWorker {
   public:
    Worker(Napi::Env env, std::shared_ptr<StepperState> state, Napi::Uint8Array in, Napi::Uint8Array out)
        : PromiseWorker(env),
          state_(std::move(state)),
          in_(in.Data()),
          out_(out.Data()),
          in_size_(in.ByteLength()),
          out_size_(out.ByteLength()),
          in_ref_(Napi::Persistent(in)),
          out_ref_(Napi::Persistent(out)) {
      state_->busy_ = true;
    }

   protected:
    Status Work() override { return state_->open_->stepper().Step(in_, in_size_, out_, out_size_, &consumed_, &produced_); }
    void Settled() override {
      state_->busy_ = false;
      state_->CloseIfIdle();
    }
    Napi::Value Result(Napi::Env env) override {
      Napi::Object r = Napi::Object::New(env);
      r.Set("consumed", Napi::Number::New(env, static_cast<double>(consumed_)));
      r.Set("produced", Napi::Number::New(env, static_cast<double>(produced_)));
      return r;
    }

   private:
    std::shared_ptr<StepperState> state_;
    const uint8_t* const in_;
    uint8_t* const out_;
    const size_t in_size_, out_size_;
    Napi::Reference<Napi::Uint8Array> in_ref_, out_ref_;  // keep the memory alive
    size_t consumed_ = 0, produced_ = 0;
  };

  void CloseIfIdle() {
    if (closed_ && !busy_) open_.reset();
  }

  std::unique_ptr<Open> open_;
  const char* const what_;
  bool busy_ = false, closed_ = false;  // JavaScript's thread only
};

}  // namespace ocifs
