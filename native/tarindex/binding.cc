// N-API wrapper of the tarindex writer. Columns are typed arrays of src/erofs, read in place.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../base/napi_util.h"
#include "../tar/columns.h"
#include "append.h"
#include "plan.h"
#include "writer.h"

namespace ocifs {
namespace {

using namespace erofs;

struct Open {
  TreeColumns tree;
  TarindexPlan plan;
  std::unique_ptr<TarindexWriter> writer;
  Napi::ObjectReference columns;  // keeps the arrays alive
};

template <class T>
constexpr napi_typedarray_type kTypeOf = napi_uint8_array;
template <>
constexpr napi_typedarray_type kTypeOf<uint16_t> = napi_uint16_array;
template <>
constexpr napi_typedarray_type kTypeOf<int32_t> = napi_int32_array;
template <>
constexpr napi_typedarray_type kTypeOf<uint32_t> = napi_uint32_array;
template <>
constexpr napi_typedarray_type kTypeOf<double> = napi_float64_array;

// Data of a typed array that has at least `count` elements.
template <class T>
const T* Column(const Napi::Object& columns, const char* name, size_t count) {
  const Napi::Value value = columns.Get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != kTypeOf<T> ||
      value.As<Napi::TypedArray>().ElementLength() < count)
    throw ToError(columns.Env(), Status::Usage(std::string("tarindex: column ") + name + " is missing, too short or of another type"));
  return value.As<Napi::TypedArrayOf<T>>().Data();
}

ByteStrings ToByteStrings(const Napi::Value& value) {
  const Napi::Object o = value.As<Napi::Object>();
  const size_t count = ToU64(o.Get("count"), "count");
  return {Column<uint8_t>(o, "bytes", 0), Column<double>(o, "offsets", count), Column<uint32_t>(o, "lengths", count)};
}

TreeColumns ToTree(const Napi::Object& o) {
  TreeColumns tree;
  const size_t entries = ToU64(o.Get("entryCount"), "entryCount"), inodes = ToU64(o.Get("inodeCount"), "inodeCount");
  tree.entry_count = static_cast<uint32_t>(entries);
  tree.names = Column<uint8_t>(o, "names", 0);
  tree.name_offset = Column<uint32_t>(o, "nameOffset", entries);
  tree.name_bytes = Column<uint8_t>(o, "nameBytes", entries);
  tree.parent = Column<int32_t>(o, "parent", entries);
  tree.inode = Column<int32_t>(o, "inode", entries);
  tree.first_child = Column<int32_t>(o, "firstChild", entries);
  tree.next_sibling = Column<int32_t>(o, "nextSibling", entries);
  tree.inode_count = static_cast<uint32_t>(inodes);
  tree.mode = Column<uint16_t>(o, "mode", inodes);
  tree.uid = Column<uint32_t>(o, "uid", inodes);
  tree.gid = Column<uint32_t>(o, "gid", inodes);
  tree.mtime_seconds = Column<double>(o, "mtimeSeconds", inodes);
  tree.mtime_nanoseconds = Column<uint32_t>(o, "mtimeNanoseconds", inodes);
  tree.size = Column<double>(o, "sizeBytes", inodes);
  tree.data = Column<double>(o, "data", inodes);
  tree.device = Column<uint16_t>(o, "device", inodes);
  tree.xattrs = Column<int32_t>(o, "xattrs", inodes);
  tree.targets = ToByteStrings(o.Get("targets"));
  tree.xattr_areas = ToByteStrings(o.Get("xattrAreas"));
  const Napi::Array pieces = o.Get("pieces").As<Napi::Array>();
  for (uint32_t i = 0; i < pieces.Length(); i++) {
    const Napi::Object of = pieces.Get(i).As<Napi::Object>();
    const auto numbers = of.Get("numbers").As<Napi::Float64Array>();
    static_assert(sizeof(DataPiece) == 3 * sizeof(double));
    tree.pieces[static_cast<uint32_t>(ToU64(of.Get("inode"), "inode"))] = {reinterpret_cast<const DataPiece*>(numbers.Data()),
                                                                          numbers.ElementLength() / 3};
  }
  return tree;
}

Napi::Value Next(const Napi::CallbackInfo& call, Open& open) {
  const auto numbers = call[0].As<Napi::Float64Array>();
  std::vector<uint64_t> device_blocks(numbers.Data(), numbers.Data() + numbers.ElementLength());
  std::vector<uint8_t> piece;
  ThrowIfFailed(call.Env(), open.writer->Next(device_blocks, &piece));
  if (piece.empty()) return call.Env().Undefined();
  Napi::Uint8Array out = Napi::Uint8Array::New(call.Env(), piece.size());
  std::memcpy(out.Data(), piece.data(), piece.size());
  return out;
}

// planTarindex(columns, deviceCount, { tarindexBytes, sparseChunks }) → { nids, sizeBytes, …, next(deviceBlocks) → bytes or undefined }
Napi::Value PlanTarindex(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object columns = info[0].As<Napi::Object>(), limits = info[2].As<Napi::Object>();
  auto open = std::make_shared<Open>();
  open->tree = ToTree(columns);
  ThrowIfFailed(env, TarindexPlan::Make(open->tree, ToU64(info[1], "deviceCount"),
                                        {ToU64(limits.Get("tarindexBytes"), "tarindexBytes"), ToU64(limits.Get("sparseChunks"), "sparseChunks")},
                                        &open->plan));
  open->writer = std::make_unique<TarindexWriter>(open->tree, open->plan);
  open->columns = Napi::Persistent(columns);
  const TarindexPlan& plan = open->plan;
  Napi::Uint32Array nids = Napi::Uint32Array::New(env, plan.nids.size());
  std::copy(plan.nids.begin(), plan.nids.end(), nids.Data());
  Napi::Object o = Napi::Object::New(env);
  o.Set("nids", nids);
  o.Set("sizeBytes", Napi::Number::New(env, static_cast<double>(plan.size)));
  o.Set("inodeCount", Napi::Number::New(env, static_cast<double>(plan.order.size())));
  o.Set("epochSeconds", Napi::Number::New(env, static_cast<double>(plan.epoch_seconds)));
  o.Set("epochNanoseconds", Napi::Number::New(env, plan.epoch_nanoseconds));
  o.Set("hasXattrs", Napi::Boolean::New(env, plan.has_xattrs));
  o.Set("next", Napi::Function::New(env, [open](const Napi::CallbackInfo& call) { return Next(call, *open); }, "next"));
  return o;
}

// A typed array that is written to.
template <class T>
T* Mutable(const Napi::Object& columns, const char* name, size_t* size) {
  const T* const data = Column<T>(columns, name, 0);
  *size = std::min(*size, columns.Get(name).As<Napi::TypedArray>().ElementLength());
  return const_cast<T*>(data);
}

struct UsedCounts {
  static constexpr size_t kNames = 0, kEntries = 1, kInodes = 2, kTargetBytes = 3, kTargets = 4, kCount = 5;
};

// appendPlain(columns, scanned, from, count, base, device) → the first entry that was not added; `columns.used` says how much of them is.
Napi::Value AppendPlainEntries(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object o = info[0].As<Napi::Object>(), scanned = info[1].As<Napi::Object>(), strings = o.Get("targets").As<Napi::Object>();
  double* const used = const_cast<double*>(Column<double>(o, "used", UsedCounts::kCount));
  GrowingTree tree;
  tree.names_capacity = tree.entry_capacity = tree.slot_count = tree.inode_capacity = SIZE_MAX;
  tree.names = Mutable<uint8_t>(o, "names", &tree.names_capacity);
  tree.name_offset = Mutable<uint32_t>(o, "nameOffset", &tree.entry_capacity);
  tree.name_bytes = Mutable<uint8_t>(o, "nameBytes", &tree.entry_capacity);
  tree.parent = Mutable<int32_t>(o, "parent", &tree.entry_capacity);
  tree.inode = Mutable<int32_t>(o, "inode", &tree.entry_capacity);
  tree.first_child = Mutable<int32_t>(o, "firstChild", &tree.entry_capacity);
  tree.next_sibling = Mutable<int32_t>(o, "nextSibling", &tree.entry_capacity);
  tree.depth = Mutable<uint16_t>(o, "depth", &tree.entry_capacity);
  tree.slots = Mutable<int32_t>(o, "slots", &tree.slot_count);
  tree.mode = Mutable<uint16_t>(o, "mode", &tree.inode_capacity);
  tree.uid = Mutable<uint32_t>(o, "uid", &tree.inode_capacity);
  tree.gid = Mutable<uint32_t>(o, "gid", &tree.inode_capacity);
  tree.mtime_seconds = Mutable<double>(o, "mtimeSeconds", &tree.inode_capacity);
  tree.mtime_nanoseconds = Mutable<uint32_t>(o, "mtimeNanoseconds", &tree.inode_capacity);
  tree.size = Mutable<double>(o, "sizeBytes", &tree.inode_capacity);
  tree.data = Mutable<double>(o, "data", &tree.inode_capacity);
  tree.device = Mutable<uint16_t>(o, "device", &tree.inode_capacity);
  tree.xattrs = Mutable<int32_t>(o, "xattrs", &tree.inode_capacity);
  GrowingStrings& targets = tree.targets;
  targets.bytes_capacity = targets.capacity = targets.slot_count = SIZE_MAX;
  targets.bytes = Mutable<uint8_t>(strings, "bytes", &targets.bytes_capacity);
  targets.offsets = Mutable<double>(strings, "offsets", &targets.capacity);
  targets.lengths = Mutable<uint32_t>(strings, "lengths", &targets.capacity);
  targets.slots = Mutable<int32_t>(strings, "slots", &targets.slot_count);
  tree.hash_seed = static_cast<uint32_t>(ToU64(o.Get("hashSeed"), "hashSeed"));
  tree.maximum_depth = static_cast<uint16_t>(ToU64(o.Get("maximumDepth"), "maximumDepth"));
  tree.names_used = static_cast<size_t>(used[UsedCounts::kNames]);
  tree.entry_count = static_cast<size_t>(used[UsedCounts::kEntries]);
  tree.inode_count = static_cast<size_t>(used[UsedCounts::kInodes]);
  targets.bytes_used = static_cast<size_t>(used[UsedCounts::kTargetBytes]);
  targets.count = static_cast<size_t>(used[UsedCounts::kTargets]);
  const size_t from = ToU64(info[2], "from"), count = ToU64(info[3], "count");
  const ScannedEntries entries{Column<double>(scanned, "numbers", count * tar::kColumnCount), Column<uint8_t>(scanned, "names", 0), count,
                               info[4].As<Napi::Number>().DoubleValue(), static_cast<uint16_t>(ToU64(info[5], "device"))};
  const size_t next = AppendPlain(&tree, entries, from);
  used[UsedCounts::kNames] = static_cast<double>(tree.names_used);
  used[UsedCounts::kEntries] = static_cast<double>(tree.entry_count);
  used[UsedCounts::kInodes] = static_cast<double>(tree.inode_count);
  used[UsedCounts::kTargetBytes] = static_cast<double>(targets.bytes_used);
  used[UsedCounts::kTargets] = static_cast<double>(targets.count);
  return Napi::Number::New(env, static_cast<double>(next));
}

}  // namespace

void InitTarindex(Napi::Env env, Napi::Object exports) {
  exports.Set("appendPlain", Napi::Function::New(env, AppendPlainEntries, "appendPlain"));
  exports.Set("planTarindex", Napi::Function::New(env, PlanTarindex, "planTarindex"));
}

}  // namespace ocifs
