#include "../base/napi_util.h"

namespace ocifs {
void InitLayer(Napi::Env, Napi::Object) {}
}  // namespace ocifs
