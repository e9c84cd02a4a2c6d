// The addon's one entry point: each component adds its exports. State is per environment, in the components' classes.
#include <napi.h>

namespace ocifs {
void InitMemory(Napi::Env env, Napi::Object exports);
void InitErofs(Napi::Env env, Napi::Object exports);
void InitInflate(Napi::Env env, Napi::Object exports);
void InitSparse(Napi::Env env, Napi::Object exports);
void InitFdPass(Napi::Env env, Napi::Object exports);
void InitNotify(Napi::Env env, Napi::Object exports);
void InitHash(Napi::Env env, Napi::Object exports);
void InitLayer(Napi::Env env, Napi::Object exports);
void InitFuse(Napi::Env env, Napi::Object exports);
void InitFanotify(Napi::Env env, Napi::Object exports);
void InitMount(Napi::Env env, Napi::Object exports);
void InitContent(Napi::Env env, Napi::Object exports);
void InitTar(Napi::Env env, Napi::Object exports);
void InitTarindex(Napi::Env env, Napi::Object exports);
}  // namespace ocifs

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ocifs::InitMemory(env, exports);
  ocifs::InitErofs(env, exports);
  ocifs::InitInflate(env, exports);
  ocifs::InitSparse(env, exports);
  ocifs::InitFdPass(env, exports);
  ocifs::InitNotify(env, exports);
  ocifs::InitHash(env, exports);
  ocifs::InitLayer(env, exports);
  ocifs::InitFuse(env, exports);
  ocifs::InitFanotify(env, exports);
  ocifs::InitMount(env, exports);
  ocifs::InitContent(env, exports);
  ocifs::InitTar(env, exports);
  ocifs::InitTarindex(env, exports);
  return exports;
}

NODE_API_MODULE(ocifs, Init)
