#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "objects.h"
#include "tree_writer.h"

namespace ocifs {
namespace {
using namespace content;

struct Bytes {
  const uint8_t* data;
  size_t size;
};

Bytes ToBytes(const Napi::Value& v) {
  if (!v.IsTypedArray()) throw ToError(v.Env(), Status::Usage("want bytes"));
  Napi::TypedArray a = v.As<Napi::TypedArray>();
  return {static_cast<const uint8_t*>(a.ArrayBuffer().Data()) + a.ByteOffset(), a.ByteLength()};
}

std::string ToName(const Napi::Value& v) {
  const Bytes b = ToBytes(v);
  std::string name(reinterpret_cast<const char*>(b.data), b.size);
  if (name.find('\0') != std::string::npos) throw ToError(v.Env(), Status::Corrupt("a file name holds a NUL byte"));
  return name;
}

Napi::Object ToObject(Napi::Env env, const TreeCounts& c) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("entries", Napi::Number::New(env, static_cast<double>(c.entries)));
  out.Set("cloned", Napi::Number::New(env, static_cast<double>(c.cloned)));
  out.Set("copied", Napi::Number::New(env, static_cast<double>(c.copied)));
  out.Set("skipped", Napi::Number::New(env, static_cast<double>(c.skipped)));
  return out;
}

// applyTree(rootFd, sourceFds, privileged, records) → Promise<counts>
Napi::Value ApplyTree(const Napi::CallbackInfo& info) {
  auto target = std::make_shared<TreeTarget>();
  target->root = ToInt(info[0], "root");
  Napi::Array sources = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < sources.Length(); ++i) target->sources.push_back(ToInt(sources.Get(i), "source"));
  target->privileged = info[2].ToBoolean();
  const Bytes records = ToBytes(info[3]);
  auto counts = std::make_shared<TreeCounts>();
  return AsyncTask::Run(
      info.Env(), [=] { return ApplyTreeOps(*target, records.data, records.size, counts.get()); },
      [counts](Napi::Env env) -> Napi::Value { return ToObject(env, *counts); }, {info[3]});
}

// putObjects(objectsFd, sourceFd, ranges: Float64Array of offset, size) → Promise<{digests, cloned, copied}>
Napi::Value PutObjects(const Napi::CallbackInfo& info) {
  const int objects = ToInt(info[0], "objects"), source = ToInt(info[1], "source");
  Napi::Float64Array ranges = info[2].As<Napi::Float64Array>();
  auto work = std::make_shared<std::vector<std::pair<uint64_t, uint64_t>>>();
  for (size_t i = 0; i + 1 < ranges.ElementLength(); i += 2)
    work->emplace_back(static_cast<uint64_t>(ranges[i]), static_cast<uint64_t>(ranges[i + 1]));
  auto digests = std::make_shared<std::vector<uint8_t>>();
  auto counts = std::make_shared<TreeCounts>();
  return AsyncTask::Run(
      info.Env(),
      [=] {
        for (const auto& [offset, size] : *work) {
          Digest256 digest;
          Status s = PutObject(objects, source, offset, size, &digest, counts.get());
          if (!s.ok()) return s;
          digests->insert(digests->end(), digest.begin(), digest.end());
        }
        return Status::Ok();
      },
      [=](Napi::Env env) -> Napi::Value {
        Napi::Object out = ToObject(env, *counts);
        out.Set("digests", Napi::Buffer<uint8_t>::Copy(env, digests->data(), digests->size()));
        return out;
      });
}

// stageFile(directoryFd, name, source fd, source name or undefined, size) → Promise<{fd, cloned}>. The new file is open for reading.
Napi::Value StageFile(const Napi::CallbackInfo& info) {
  const int directory = ToInt(info[0], "directory"), source = ToInt(info[2], "source");
  const std::string name = ToName(info[1]);
  const bool whole = info[3].IsUndefined();
  const std::string source_name = whole ? std::string() : ToName(info[3]);
  const uint64_t size = ToU64(info[4], "size");
  auto fd = std::make_shared<Fd>();
  auto counts = std::make_shared<TreeCounts>();
  return AsyncTask::Run(
      info.Env(),
      [=] {
        Fd opened;
        Status s = whole ? CheckSource(source, size) : OpenSource(source, source_name, size, &opened);
        if (!s.ok()) return s;
        fd->Reset(openat(directory, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (fd->get() < 0) return Status::Errno(errno, "create file");
        s = CloneFile(whole ? source : opened.get(), size, fd->get(), counts.get());
        // It is hashed next, and shares no pages with its source. A hint: what comes of it does not matter.
        if (s.ok()) posix_fadvise(fd->get(), 0, 0, POSIX_FADV_WILLNEED);
        return s;
      },
      [=](Napi::Env env) -> Napi::Value {
        Napi::Object out = ToObject(env, *counts);
        out.Set("fd", Napi::Number::New(env, fd->Release()));
        return out;
      });
}

// verityOf(fd, offset, size) → Promise<Buffer>
Napi::Value VerityOf(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const uint64_t offset = ToU64(info[1], "offset"), size = ToU64(info[2], "size");
  auto digest = std::make_shared<Digest256>();
  return AsyncTask::Run(
      info.Env(), [=] { return VerityOfRange(fd, offset, size, digest.get()); },
      [=](Napi::Env env) -> Napi::Value { return Napi::Buffer<uint8_t>::Copy(env, digest->data(), digest->size()); });
}

// openBeneath(directoryFd, name, size) → fd of a regular file of that size
Napi::Value OpenBeneathFile(const Napi::CallbackInfo& info) {
  Fd fd;
  ThrowIfFailed(info.Env(), OpenSource(ToInt(info[0], "directory"), ToName(info[1]), ToU64(info[2], "size"), &fd));
  return Napi::Number::New(info.Env(), fd.Release());
}

// syncFileSystem(fd) → Promise: everything written to the file system of fd is on its disk.
Napi::Value SyncFileSystem(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  return AsyncTask::Run(
      info.Env(), [=] { return syncfs(fd) < 0 ? Status::Errno(errno, "flush file system") : Status::Ok(); },
      [](Napi::Env env) -> Napi::Value { return env.Undefined(); });
}

// renameNew(from, to): fails with `busy` when there is something of the new name.
void RenameNew(const Napi::CallbackInfo& info) {
  const std::string from = info[0].ToString().Utf8Value(), to = info[1].ToString().Utf8Value();
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  const int e = errno;
  if (e == EEXIST) throw ToError(info.Env(), Status{EEXIST, "busy", to + ": there is something of this name already"});
  throw ToError(info.Env(), Status::Errno(e, "name " + to));
}

}  // namespace

void InitContent(Napi::Env env, Napi::Object exports) {
  exports.Set("applyTree", Napi::Function::New(env, ApplyTree));
  exports.Set("putObjects", Napi::Function::New(env, PutObjects));
  exports.Set("stageFile", Napi::Function::New(env, StageFile));
  exports.Set("verityOf", Napi::Function::New(env, VerityOf));
  exports.Set("openBeneath", Napi::Function::New(env, OpenBeneathFile));
  exports.Set("syncFileSystem", Napi::Function::New(env, SyncFileSystem));
  exports.Set("renameNew", Napi::Function::New(env, RenameNew));
}
}  // namespace ocifs
