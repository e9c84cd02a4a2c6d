// What the allocator keeps of what was freed. Buffers of an index build are large and short-lived; a daemon lives on with a hundred mounts.
#ifdef __linux__
#include <malloc.h>
#endif

#include "../base/async.h"

namespace ocifs {
namespace {

// trimMemory() → Promise. On a pool thread: it takes the lock of each arena in turn.
Napi::Value TrimMemory(const Napi::CallbackInfo& info) {
  return AsyncTask::Run(
      info.Env(),
      [] {
#ifdef __linux__
        malloc_trim(0);
#endif
        return Status::Ok();
      },
      [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

}  // namespace

void InitMemory(Napi::Env env, Napi::Object exports) {
#ifdef __linux__
  // Otherwise glibc raises this with the first large block that is freed, and from then on those of that size come from a heap that
  // small ones keep from shrinking.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
  exports.Set("trimMemory", Napi::Function::New(env, TrimMemory));
}
}  // namespace ocifs
