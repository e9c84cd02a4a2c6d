#include "../base/napi_util.h"

namespace ocifs {
void InitErofs(Napi::Env, Napi::Object) {}
}  // namespace ocifs
