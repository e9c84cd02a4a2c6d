// Input: the bytes of an EROFS image. Opens it, and walks the tree from the root as every reader of it together would.
// A superblock checksum would stop almost every changed input, so that feature is also switched off.
#include <sys/stat.h>

#include <map>
#include <memory>
#include <set>

#include "../../native/erofs/image.h"
#include "../../native/erofs/listing.h"
#include "fuzz.h"

using namespace ocifs;
using namespace ocifs::erofs;

namespace {

constexpr size_t kInodesWalked = 64, kEntriesOfDirectory = 200, kPagesOfListing = 64;

class Walk {
 public:
  explicit Walk(const Image& image) : image_(image) {}

  void Run() {
    Visit(image_.root_nid());
    // Whatever a file handle or a hostile kernel may ask for.
    for (const uint64_t nid : {uint64_t{0}, uint64_t{1}, image_.size_bytes() / 32, uint64_t{1} << 59, UINT64_MAX}) Visit(nid);
    for (size_t i = 0; i < queue_.size() && i < kInodesWalked; i++) Inode(queue_[i]);
  }

 private:
  void Visit(uint64_t nid) {
    if (seen_.insert(nid).second) queue_.push_back(nid);
  }

  void Inode(uint64_t nid) {
    Attr a;
    const Status s = image_.GetAttr(nid, &a);
    fuzz::CheckStatus(s);
    if (!s.ok()) return;
    CHECK(a.nid == nid && a.size <= INT64_MAX && a.mtime_nsec < 1000000000 && (a.mode & S_IFMT) != 0);
    Link(a);
    Xattrs(nid);
    Extents(a);
    Directory(a);
  }

  void Link(const Attr& a) {
    std::string target;
    const Status s = image_.ReadLink(a.nid, &target);
    fuzz::CheckStatus(s);
    if (s.ok()) CHECK(S_ISLNK(a.mode) && target.size() == a.size && target.size() < 4096 && target.find('\0') == target.npos);
  }

  void Xattrs(uint64_t nid) {
    std::map<std::string, std::string> first;
    size_t names_size = 0;
    const Status s = image_.VisitXattrs(nid, [&](std::string_view name, std::string_view value) {
      CHECK(!name.empty() && name.size() <= 255 && name.find('\0') == name.npos && value.size() <= 65535);
      names_size += name.size() + 1;
      first.emplace(name, value);
    });
    fuzz::CheckStatus(s);
    std::string names, value;
    CHECK(image_.ListXattr(nid, &names).err == s.err);
    if (!s.ok()) return;
    CHECK(names.size() == names_size);
    size_t asked = 0;
    for (const auto& [name, want] : first) {
      if (asked++ == 8) break;
      CHECK(image_.GetXattr(nid, name, &value).ok() && value == want);
    }
    CHECK(!image_.GetXattr(nid, "user.no such attribute", &value).ok() || first.contains("user.no such attribute"));
  }

  // Ranges at the front, in the middle and at the end: without gaps, inside what they name, and readable.
  void Extents(const Attr& a) {
    const uint64_t offsets[] = {0, 511, a.size / 2, a.size - std::min<uint64_t>(a.size, 700), a.size, UINT64_MAX};
    for (const uint64_t offset : offsets)
      for (const uint64_t length : {uint64_t{1}, uint64_t{4096}, uint64_t{1} << 20, UINT64_MAX}) {
        std::vector<Extent> extents;
        const Status s = image_.MapRange(a.nid, offset, length, &extents, 300);
        fuzz::CheckStatus(s);
        if (!s.ok()) continue;
        CHECK(S_ISREG(a.mode) && extents.size() <= 300);
        uint64_t at = offset;
        for (const Extent& e : extents) {
          CHECK(e.file_offset == at && e.length > 0 && e.length <= a.size - at && e.length <= length - (at - offset));
          at += e.length;
          if (e.kind == ExtentKind::kIndex) Touch(e.offset, e.length);
          if (e.kind != ExtentKind::kDevice) continue;
          CHECK(e.device >= 1 && e.device <= image_.devices().size());
          const uint64_t end = image_.devices()[e.device - 1].blocks * image_.block_size();
          CHECK(e.offset <= end && e.length <= end - e.offset);
        }
      }
  }

  void Touch(uint64_t offset, uint64_t length) {
    CHECK(offset <= image_.size_bytes() && length <= image_.size_bytes() - offset);
    const volatile uint8_t* p = image_.data() + offset;
    (void)p[0];
    (void)p[length - 1];
  }

  void Directory(const Attr& a) {
    std::vector<std::pair<std::string, uint64_t>> entries;
    uint64_t last = 0;
    size_t count = 0;
    bool whole = true;
    const Status s = image_.ReadDir(a.nid, 0, [&](const Dirent& e, uint64_t next) {
      CHECK(!e.name.empty() && e.name.size() <= 255 && e.name.find('/') == e.name.npos && e.name.find('\0') == e.name.npos);
      CHECK(next > last);
      InOneBlock(e.name);
      last = next;
      entries.emplace_back(e.name, e.nid);
      whole = ++count < kEntriesOfDirectory;
      return whole;
    });
    fuzz::CheckStatus(s);
    CHECK(s.ok() || S_ISDIR(a.mode) || s.err == ENOTDIR);
    for (const auto& [name, nid] : entries) {
      Visit(nid);
      Find(a.nid, name);
    }
    for (const char* name : {"", ".", "..", "a", "\xff"}) Find(a.nid, name);
    Find(a.nid, std::string(256, 'n'));
    // A cookie nobody gave out.
    for (const uint64_t cookie : {uint64_t{1}, uint64_t{13}, a.size, a.size + 1, UINT64_MAX}) {
      size_t more = 0;
      fuzz::CheckStatus(image_.ReadDir(a.nid, cookie, [&](const Dirent&, uint64_t next) {
        CHECK(next > cookie);
        return ++more < 4;
      }));
    }
    List(a.nid, entries, s.ok() && whole);
  }

  // A name lies in its directory's block, and so in one block of the image. A "." that is not stored lies nowhere.
  void InOneBlock(std::string_view name) {
    const auto* begin = reinterpret_cast<const uint8_t*>(name.data());
    if (name == "." && (begin < image_.data() || begin >= image_.data() + image_.size_bytes())) return;
    const auto at = static_cast<uint64_t>(begin - image_.data());
    CHECK(at / image_.block_size() == (at + name.size() - 1) / image_.block_size());
  }

  void Find(uint64_t dir, const std::string& name) {
    Dirent found;
    const Status s = image_.Lookup(dir, name, &found);
    fuzz::CheckStatus(s);
    if (s.ok()) CHECK(found.name == name);
  }

  // The bulk listing tells the same names, in the same order.
  void List(uint64_t dir, const std::vector<std::pair<std::string, uint64_t>>& entries, bool whole) {
    std::vector<uint8_t> buffer(1024);
    ListedPage page;
    size_t pages = 0, seen = 0;
    for (uint64_t cookie = 0; !page.done && pages++ < kPagesOfListing; cookie = page.cookie) {
      Status s = ListDirectory(image_, dir, cookie, buffer.data(), buffer.size(), &page);
      if (std::strcmp(s.code, "limit") == 0) {
        buffer.resize(1 << 20);
        s = ListDirectory(image_, dir, cookie, buffer.data(), buffer.size(), &page);
      }
      fuzz::CheckStatus(s);
      if (!s.ok()) return;
      CHECK(page.used <= buffer.size() && (page.done || page.cookie > cookie));
      for (size_t at = 0; at < page.used;) {
        ListedRecord r;
        CHECK(page.used - at >= sizeof r);
        std::memcpy(&r, buffer.data() + at, sizeof r);
        CHECK(r.record_size % 8 == 0 && r.record_size <= page.used - at);
        CHECK(sizeof r + r.name_size + r.target_size + r.xattrs_size <= r.record_size);
        const std::string name(reinterpret_cast<const char*>(buffer.data() + at + sizeof r), r.name_size);
        while (seen < entries.size() && (entries[seen].first == "." || entries[seen].first == "..")) seen++;
        CHECK(seen < entries.size() ? entries[seen] == std::pair(name, r.nid) : !whole);
        seen++;
        at += r.record_size;
      }
    }
  }

  const Image& image_;
  std::vector<uint64_t> queue_;
  std::set<uint64_t> seen_;
};

void Open(fuzz::Bytes bytes) {
  std::unique_ptr<Image> image;
  const Status s = Image::OpenBytes(std::move(bytes), &image);
  fuzz::CheckStatus(s);
  if (s.ok()) Walk(*image).Run();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Bytes bytes(data, data + size);
  constexpr size_t kCompatAt = 1024 + 8;
  const bool summed = size > kCompatAt && (bytes[kCompatAt] & 1) != 0;
  if (!summed) {
    Open(std::move(bytes));
    return 0;
  }
  Open(bytes);
  bytes[kCompatAt] &= 0xfe;
  Open(std::move(bytes));
  return 0;
}
