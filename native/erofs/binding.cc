// JavaScript's view of an image: openErofsImage(fd, xattrsAreFlagged) and the object it returns.
#include "binding.h"

#include <cmath>

#include "../base/napi_util.h"
#include "image.h"
#include "listing.h"

namespace ocifs::erofs {
namespace {

// Bounds one mapRange() call: at most this many chunks are looked at, and so at most this many extents are returned.
constexpr uint64_t kChunksPerCall = 65536;
// Bounds one readdir() call, whatever the caller asks for.
constexpr uint64_t kEntriesPerCall = 65536;
constexpr uint64_t kMaxSafeInteger = (uint64_t{1} << 53) - 1;

constexpr napi_type_tag kTypeTag = {0x6f63696673206572, 0x6f66732d696d6167};

// A number of the image as a JavaScript number; one that would lose bits cannot be right and is "corrupt".
Napi::Number Num(Napi::Env env, uint64_t value, const char* what) {
  if (value > kMaxSafeInteger)
    throw ToError(env, Status::Corrupt(std::string("EROFS image: ") + what + " is " + std::to_string(value) +
                                       ", want a value below 2^53"));
  return Napi::Number::New(env, static_cast<double>(value));
}

std::string_view ToBytes(const Napi::Value& v, const char* what) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw ToError(v.Env(), Status::Usage(std::string(what) + " must be a Uint8Array"));
  auto a = v.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(a.Data()), a.ByteLength()};
}

Napi::Uint8Array FromBytes(Napi::Env env, std::string_view bytes) {
  auto a = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(a.Data(), bytes.data(), bytes.size());
  return a;
}

class ErofsImage : public Napi::ObjectWrap<ErofsImage> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "ErofsImage",
                       {InstanceMethod<&ErofsImage::Info>("info"), InstanceMethod<&ErofsImage::GetAttr>("getattr"),
                        InstanceMethod<&ErofsImage::Lookup>("lookup"), InstanceMethod<&ErofsImage::ReadDir>("readdir"),
                        InstanceMethod<&ErofsImage::ListDirectory>("listDirectory"),
                        InstanceMethod<&ErofsImage::ReadLink>("readlink"),
                        InstanceMethod<&ErofsImage::ListXattr>("listxattr"),
                        InstanceMethod<&ErofsImage::GetXattr>("getxattr"),
                        InstanceMethod<&ErofsImage::MapRange>("mapRange"),
                        InstanceMethod<&ErofsImage::ReadIndex>("readIndex"),
                        InstanceMethod<&ErofsImage::Close>("close")});
  }

  explicit ErofsImage(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ErofsImage>(info) {
    std::unique_ptr<Image> image;
    ThrowIfFailed(info.Env(), Image::Open(ToInt(info[0], "fd"), &image));
    if (info[1].ToBoolean().Value()) image->TrustXattrFlag();
    image_ = std::move(image);
    Value().TypeTag(&kTypeTag);
  }

  const std::shared_ptr<Image>& Opened(Napi::Env env) const {
    if (!image_) throw ToError(env, {EBADF, "aborted", "EROFS image: used after it was closed"});
    return image_;
  }

 private:
  Napi::Value Info(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const Image& image = *Opened(env);
    auto devices = Napi::Array::New(env);
    for (const DeviceSlot& d : image.devices()) {
      auto o = Napi::Object::New(env);
      o["tag"] = FromBytes(env, d.tag);
      o["blocks"] = Num(env, d.blocks, "a device's size");
      o["uniaddr"] = Num(env, d.uniaddr, "a device's address");
      devices[devices.Length()] = o;
    }
    auto out = Napi::Object::New(env);
    out["rootNid"] = Num(env, image.root_nid(), "the root's nid");
    out["inodeCount"] = Num(env, image.inode_count(), "the number of inodes");
    out["blockSizeBytes"] = Num(env, image.block_size(), "the block size");
    out["sizeBytes"] = Num(env, image.size_bytes(), "the file size");
    out["primaryBlocks"] = Num(env, image.primary_blocks(), "the number of blocks");
    out["devices"] = devices;
    return out;
  }

  Napi::Value GetAttr(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Attr a;
    ThrowIfFailed(env, Opened(env)->GetAttr(ToU64(info[0], "nid"), &a));
    if (std::abs(static_cast<double>(a.mtime_sec)) > static_cast<double>(kMaxSafeInteger))
      throw ToError(env, Status::Corrupt("EROFS inode " + std::to_string(a.nid) + ": mtime is out of range"));
    auto o = Napi::Object::New(env);
    o["nid"] = Num(env, a.nid, "a nid");
    o["ino"] = Napi::Number::New(env, a.ino);
    o["mode"] = Napi::Number::New(env, a.mode);
    o["uid"] = Napi::Number::New(env, a.uid);
    o["gid"] = Napi::Number::New(env, a.gid);
    o["nlink"] = Napi::Number::New(env, a.nlink);
    o["sizeBytes"] = Num(env, a.size, "a file's size");
    o["mtimeSeconds"] = Napi::Number::New(env, static_cast<double>(a.mtime_sec));
    o["mtimeNanoseconds"] = Napi::Number::New(env, a.mtime_nsec);
    o["rdevMajor"] = Napi::Number::New(env, a.rdev_major);
    o["rdevMinor"] = Napi::Number::New(env, a.rdev_minor);
    return o;
  }

  Napi::Value Lookup(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Dirent d;
    Status s = Opened(env)->Lookup(ToU64(info[0], "nid"), ToBytes(info[1], "name"), &d);
    if (s.err == ENOENT) return env.Null();
    ThrowIfFailed(env, s);
    auto o = Napi::Object::New(env);
    o["nid"] = Num(env, d.nid, "a nid");
    o["type"] = Napi::Number::New(env, d.type);
    return o;
  }

  Napi::Value ReadDir(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const uint64_t max = std::min(ToU64(info[2], "maxEntries"), kEntriesPerCall);
    if (max == 0) throw ToError(env, Status::Usage("maxEntries must be positive"));
    uint64_t cookie = ToU64(info[1], "cookie");
    bool more = false;
    std::vector<Dirent> entries;
    ThrowIfFailed(env, Opened(env)->ReadDir(ToU64(info[0], "nid"), cookie, [&](const Dirent& d, uint64_t next) {
      more = entries.size() == max;
      if (more) return false;
      entries.push_back(d);
      cookie = next;
      return true;
    }));
    auto list = Napi::Array::New(env, entries.size());
    for (uint32_t i = 0; i < entries.size(); i++) {
      auto o = Napi::Object::New(env);
      o["name"] = FromBytes(env, entries[i].name);
      o["nid"] = Num(env, entries[i].nid, "a nid");
      o["type"] = Napi::Number::New(env, entries[i].type);
      list[i] = o;
    }
    auto out = Napi::Object::New(env);
    out["entries"] = list;
    out["cookie"] = Num(env, cookie, "a directory position");
    out["done"] = Napi::Boolean::New(env, !more);
    return out;
  }

  Napi::Value ListDirectory(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const uint64_t nid = ToU64(info[0], "nid"), cookie = ToU64(info[1], "cookie");
    if (!info[2].IsTypedArray() || info[2].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
      throw ToError(env, Status::Usage("buffer must be a Uint8Array"));
    auto buffer = info[2].As<Napi::Uint8Array>();
    ListedPage page;
    ThrowIfFailed(env, erofs::ListDirectory(*Opened(env), nid, cookie, buffer.Data(), buffer.ByteLength(), &page));
    auto out = Napi::Object::New(env);
    out["usedBytes"] = Num(env, page.used, "a page's size");
    out["cookie"] = Num(env, page.cookie, "a directory position");
    out["done"] = Napi::Boolean::New(env, page.done);
    return out;
  }

  Napi::Value ReadLink(const Napi::CallbackInfo& info) {
    std::string target;
    ThrowIfFailed(info.Env(), Opened(info.Env())->ReadLink(ToU64(info[0], "nid"), &target));
    return FromBytes(info.Env(), target);
  }

  Napi::Value ListXattr(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    std::string names;
    ThrowIfFailed(env, Opened(env)->ListXattr(ToU64(info[0], "nid"), &names));
    auto list = Napi::Array::New(env);
    for (size_t at = 0; at < names.size();) {
      const size_t end = names.find('\0', at);
      list[list.Length()] = FromBytes(env, std::string_view(names).substr(at, end - at));
      at = end + 1;
    }
    return list;
  }

  Napi::Value GetXattr(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    std::string value;
    Status s = Opened(env)->GetXattr(ToU64(info[0], "nid"), ToBytes(info[1], "name"), &value);
    if (s.err == ENODATA) return env.Null();
    ThrowIfFailed(env, s);
    return FromBytes(env, value);
  }

  Napi::Value MapRange(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    std::vector<Extent> extents;
    ThrowIfFailed(env, Opened(env)->MapRange(ToU64(info[0], "nid"), ToU64(info[1], "offset"), ToU64(info[2], "length"),
                                             &extents, kChunksPerCall));
    auto list = Napi::Array::New(env, extents.size());
    for (uint32_t i = 0; i < extents.size(); i++) {
      const Extent& e = extents[i];
      auto o = Napi::Object::New(env);
      o["kind"] = Napi::String::New(env, e.kind == ExtentKind::kHole    ? "hole"
                                         : e.kind == ExtentKind::kIndex ? "index"
                                                                        : "device");
      o["fileOffset"] = Num(env, e.file_offset, "a file offset");
      o["length"] = Num(env, e.length, "an extent's length");
      o["device"] = Napi::Number::New(env, e.device);
      o["offset"] = Num(env, e.offset, "an extent's address");
      list[i] = o;
    }
    return list;
  }

  Napi::Value ReadIndex(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const Image& image = *Opened(env);
    const uint64_t offset = ToU64(info[0], "offset"), length = ToU64(info[1], "length");
    if (length > image.size_bytes() || offset > image.size_bytes() - length)
      throw ToError(env, Status::Usage("readIndex: range lies outside the mapped file"));
    return FromBytes(env, {reinterpret_cast<const char*>(image.data()) + offset, length});
  }

  void Close(const Napi::CallbackInfo&) { image_.reset(); }

  std::shared_ptr<Image> image_;
};

// The class lives as long as the function that makes its objects.
Napi::Function MakeOpenErofsImage(Napi::Env env) {
  auto constructor = std::make_shared<Napi::FunctionReference>(Napi::Persistent(ErofsImage::Define(env)));
  return Napi::Function::New(
      env, [constructor](const Napi::CallbackInfo& info) { return constructor->New({info[0], info[1]}); }, "openErofsImage");
}

}  // namespace

std::shared_ptr<Image> UnwrapImage(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag))
    throw Napi::TypeError::New(value.Env(), "not an object of openErofsImage()");
  return ErofsImage::Unwrap(value.As<Napi::Object>())->Opened(value.Env());
}

}  // namespace ocifs::erofs

namespace ocifs {
void InitErofs(Napi::Env env, Napi::Object exports) { exports["openErofsImage"] = erofs::MakeOpenErofsImage(env); }
}  // namespace ocifs
