#include "../base/napi_util.h"

namespace ocifs {
void InitSparse(Napi::Env, Napi::Object) {}
}  // namespace ocifs
