#include "listing.h"

#include <sys/stat.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "image_private.h"

namespace ocifs::erofs {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

constexpr int64_t kMaxExact = (int64_t{1} << 53) - 1;
constexpr size_t kAlignment = 8;
// The first two pieces tell a file in one piece from any other.
constexpr uint64_t kChunksLookedAt = 2;

// Gathers one record. The strings keep their memory from entry to entry.
class Builder {
 public:
  explicit Builder(const Image& image) : image_(image) {}

  Status Load(const Dirent& entry) {
    Attr a;
    if (Status s = image_.GetAttr(entry.nid, &a); !s.ok()) return s;
    if (a.nid > static_cast<uint64_t>(kMaxExact) || a.size > static_cast<uint64_t>(kMaxExact) || a.mtime_sec > kMaxExact ||
        a.mtime_sec < -kMaxExact)
      return Status::Corrupt(OfInode(entry.nid) + "size or mtime is 2^53 or more");
    name_ = entry.name;
    record_ = {};
    record_.nid = a.nid;
    record_.size = a.size;
    record_.mtime_sec = a.mtime_sec;
    record_.mtime_nsec = a.mtime_nsec;
    record_.uid = a.uid;
    record_.gid = a.gid;
    record_.nlink = a.nlink;
    record_.rdev_major = a.rdev_major;
    record_.rdev_minor = a.rdev_minor;
    record_.mode = static_cast<uint16_t>(a.mode);
    record_.name_size = static_cast<uint16_t>(name_.size());
    target_.clear();
    if (S_ISLNK(a.mode)) {
      if (Status s = image_.ReadLink(entry.nid, &target_); !s.ok()) return s;
    }
    record_.target_size = static_cast<uint32_t>(target_.size());
    if (Status s = LoadXattrs(entry.nid); !s.ok()) return s;
    if (S_ISREG(a.mode) && a.size > 0) {
      if (Status s = LoadData(a); !s.ok()) return s;
    }
    const size_t size = sizeof record_ + name_.size() + target_.size() + xattrs_.size();
    if (size > UINT32_MAX - kAlignment) return TooLarge(entry.nid);
    record_.record_size = static_cast<uint32_t>((size + kAlignment - 1) & ~(kAlignment - 1));
    return Status::Ok();
  }

  size_t size() const { return record_.record_size; }
  uint64_t nid() const { return record_.nid; }

  // `to` has room for size() bytes.
  void Write(uint8_t* to) const {
    uint8_t* const end = to + record_.record_size;
    const auto put = [&](const void* from, size_t n) {
      if (n != 0) std::memcpy(to, from, n);
      to += n;
    };
    put(&record_, sizeof record_);
    put(name_.data(), name_.size());
    put(target_.data(), target_.size());
    put(xattrs_.data(), xattrs_.size());
    std::memset(to, 0, static_cast<size_t>(end - to));
  }

  static Status TooLarge(uint64_t nid) {
    return Status::Limit(OfInode(nid) + "name, target and xattrs do not fit the buffer of a listing");
  }

 private:
  Status LoadXattrs(uint64_t nid) {
    xattrs_.clear();
    Status s = image_.VisitXattrs(nid, [&](std::string_view name, std::string_view value) {
      for (const size_t length : {name.size(), value.size()}) {
        xattrs_.push_back(static_cast<char>(length & 0xff));
        xattrs_.push_back(static_cast<char>(length >> 8));
      }
      xattrs_.append(name).append(value);
    });
    record_.xattrs_size = static_cast<uint32_t>(xattrs_.size());
    return s;
  }

  Status LoadData(const Attr& a) {
    extents_.clear();
    if (Status s = image_.MapRange(a.nid, 0, a.size, &extents_, kChunksLookedAt); !s.ok()) return s;
    record_.data_kind = static_cast<uint32_t>(ListedData::kOther);
    if (extents_.size() != 1 || extents_[0].kind != ExtentKind::kDevice || extents_[0].length != a.size) return Status::Ok();
    if (extents_[0].offset > static_cast<uint64_t>(kMaxExact))
      return Status::Corrupt(OfInode(a.nid) + "data begins at byte 2^53 or later");
    record_.data_kind = static_cast<uint32_t>(ListedData::kWhole);
    record_.device = extents_[0].device;
    record_.data_offset = extents_[0].offset;
    return Status::Ok();
  }

  const Image& image_;
  ListedRecord record_{};
  std::string_view name_;
  std::string target_, xattrs_;
  std::vector<Extent> extents_;
};

bool IsDotOrDotDot(std::string_view name) { return name == "." || name == ".."; }

}  // namespace

Status ListDirectory(const Image& image, uint64_t dir_nid, uint64_t cookie, uint8_t* buffer, size_t size, ListedPage* out) {
  *out = {0, cookie, true};
  Builder builder(image);
  Status failed;
  const Status s = image.ReadDir(dir_nid, cookie, [&](const Dirent& entry, uint64_t next) {
    if (!IsDotOrDotDot(entry.name)) {
      failed = builder.Load(entry);
      if (failed.ok() && builder.size() > size - out->used) {
        out->done = false;
        if (out->used == 0) failed = Builder::TooLarge(builder.nid());
        return false;
      }
      if (!failed.ok()) return false;
      builder.Write(buffer + out->used);
      out->used += builder.size();
    }
    out->cookie = next;
    return true;
  });
  return s.ok() ? failed : s;
}

}  // namespace ocifs::erofs
