#include "../base/napi_util.h"

namespace ocifs {
void InitInflate(Napi::Env, Napi::Object) {}
}  // namespace ocifs
