#pragma once
#include <napi.h>

#include <memory>

#include "span_store.h"

namespace ocifs {
// The store behind a JS SpanStore; throws `usage` when the value is none or is closed.
std::shared_ptr<layer::SpanStore> UnwrapSpanStore(const Napi::Value& v);
}  // namespace ocifs
