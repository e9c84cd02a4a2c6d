#include "../base/napi_util.h"

namespace ocifs {
void InitFdPass(Napi::Env, Napi::Object) {}
}  // namespace ocifs
