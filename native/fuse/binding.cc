#include "../base/napi_util.h"

namespace ocifs {
void InitFuse(Napi::Env, Napi::Object) {}
}  // namespace ocifs
