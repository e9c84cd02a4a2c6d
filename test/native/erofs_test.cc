// The EROFS reader against hostile images. Built with ASan and UBSan; every image lies in a heap block of exactly its
// size, so one byte read past it ends the test.
//   erofs_test [IMAGE...]     default: the shared fixture, when OCIFS_SHARED names the directory that holds it
// For the built-in image everything is walked, then again with each byte changed and with the file cut at each length; for each
// one given with bytes and lengths all over it, which the fuzzer goes on with. A hostile image may be refused or answer nonsense inside its bounds, nothing else.
#include "../../native/erofs/image.h"
#include "../../native/erofs/listing.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "erofs_tiny_image.h"

using namespace ocifs;
using namespace ocifs::erofs;

namespace {

#define CHECK(cond)                                                              \
  do {                                                                           \
    if (!(cond)) {                                                               \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #cond);    \
      std::exit(1);                                                              \
    }                                                                            \
  } while (0)

// Bounds of one walk; the images here have a few hundred inodes when they are whole.
constexpr size_t kMaxInodes = 2000, kMaxEntries = 20000;
uint64_t checksum;  // of everything read, so that no read is optimized away

void Touch(std::string_view bytes) {
  for (char c : bytes) checksum = checksum * 31 + static_cast<uint8_t>(c);
}

void CheckExtents(const Image& image, uint64_t nid, uint64_t size, uint64_t offset, uint64_t length) {
  std::vector<Extent> extents;
  if (!image.MapRange(nid, offset, length, &extents, 4096).ok()) return;
  uint64_t at = offset;
  for (const Extent& e : extents) {
    CHECK(e.file_offset == at && e.length > 0);
    at += e.length;
    if (e.kind == ExtentKind::kIndex) {
      CHECK(e.length <= image.size_bytes() && e.offset <= image.size_bytes() - e.length);
      Touch({reinterpret_cast<const char*>(image.data() + e.offset), std::min<uint64_t>(e.length, 65536)});
    } else if (e.kind == ExtentKind::kDevice) {
      CHECK(e.device >= 1 && e.device <= image.devices().size());
      const uint64_t limit = image.devices()[e.device - 1].blocks * image.block_size();
      CHECK(e.length <= limit && e.offset <= limit - e.length);
    }
  }
  CHECK(at <= (offset < size ? offset + std::min(length, size - offset) : offset));
}

// Lists a directory into a buffer of `size` bytes: records lie in it whole, say what GetAttr says, and the listing ends.
void CheckListing(const Image& image, uint64_t nid, size_t size) {
  uint64_t cookie = 0;
  for (size_t pages = 0, entries = 0; pages < kMaxEntries && entries < kMaxEntries; pages++) {
    std::vector<uint8_t> buffer(size);
    ListedPage page;
    if (!ListDirectory(image, nid, cookie, buffer.data(), buffer.size(), &page).ok()) return;
    CHECK(page.used <= size && (page.done || page.cookie > cookie));
    for (size_t at = 0; at < page.used; entries++) {
      ListedRecord r;
      CHECK(page.used - at >= sizeof r);
      std::memcpy(&r, buffer.data() + at, sizeof r);
      CHECK(r.record_size % 8 == 0 && r.record_size <= page.used - at);
      CHECK(sizeof r + r.name_size + r.target_size + r.xattrs_size <= r.record_size && r.name_size > 0);
      Attr attr;
      CHECK(image.GetAttr(r.nid, &attr).ok() && attr.mode == r.mode && attr.size == r.size && attr.mtime_sec == r.mtime_sec);
      std::vector<Extent> extents;
      if (r.data_kind == static_cast<uint32_t>(ListedData::kWhole)) {
        CHECK(image.MapRange(r.nid, 0, UINT64_MAX, &extents).ok() && extents.size() == 1);
        CHECK(extents[0].device == r.device && extents[0].offset == r.data_offset && extents[0].length == r.size);
      }
      at += r.record_size;
    }
    if (page.done) return;
    cookie = page.cookie;
  }
}

// Asks everything about one inode, adds a directory's children to `todo`.
void Visit(const Image& image, uint64_t nid, std::vector<uint64_t>* todo, size_t* entries) {
  Attr attr;
  if (!image.GetAttr(nid, &attr).ok()) return;
  CHECK(attr.nid == nid);
  CheckExtents(image, nid, attr.size, 0, UINT64_MAX);
  CheckExtents(image, nid, attr.size, attr.size / 2, 4096);
  CheckExtents(image, nid, attr.size, attr.size - 1, 1);
  std::string text;
  if (image.ReadLink(nid, &text).ok()) {
    CHECK(S_ISLNK(attr.mode) && text.size() == attr.size);
    Touch(text);
  }
  std::string names;
  if (image.ListXattr(nid, &names).ok()) {
    for (size_t at = 0; at < names.size();) {
      const size_t end = names.find('\0', at);
      CHECK(end != std::string::npos);
      CHECK(image.GetXattr(nid, names.substr(at, end - at), &text).ok());
      Touch(text);
      at = end + 1;
    }
  }
  Status absent = image.GetXattr(nid, "user.ocifs.absent", &text);
  CHECK(!absent.ok());

  Dirent found;
  if (!S_ISDIR(attr.mode)) {
    CHECK(image.Lookup(nid, "x", &found).err == ENOTDIR);
    return;
  }
  for (size_t size : {size_t{0}, size_t{100}, size_t{4096}}) CheckListing(image, nid, size);
  for (std::string_view name : {"", ".", "..", "a", "\xff\xff", "zzz"}) {
    if (image.Lookup(nid, name, &found).ok()) CHECK(found.name == name);
  }
  uint64_t last = 0;
  Status s = image.ReadDir(nid, 0, [&](const Dirent& d, uint64_t next) {
    CHECK(next > last && !d.name.empty() && d.name.size() <= 255);
    last = next;
    Touch(d.name);
    if (image.Lookup(nid, d.name, &found).ok()) CHECK(found.name == d.name);
    todo->push_back(d.nid);
    return ++*entries < kMaxEntries;
  });
  for (uint64_t cookie : {uint64_t{1}, last / 2, last, last + 1, UINT64_MAX}) {
    s = image.ReadDir(nid, cookie, [&](const Dirent&, uint64_t next) {
      CHECK(next > cookie);
      return false;
    });
  }
}

// Number of inodes reached.
size_t Walk(const std::vector<uint8_t>& bytes) {
  std::unique_ptr<Image> image;
  if (!Image::OpenBytes(bytes, &image).ok()) return 0;
  std::set<uint64_t> seen;
  std::vector<uint64_t> todo = {image->root_nid()};
  size_t entries = 0;
  while (!todo.empty() && seen.size() < kMaxInodes && entries < kMaxEntries) {
    const uint64_t nid = todo.back();
    todo.pop_back();
    if (seen.insert(nid).second) Visit(*image, nid, &todo, &entries);
  }
  return seen.size();
}

void EveryNid(const std::vector<uint8_t>& bytes) {
  std::unique_ptr<Image> image;
  CHECK(Image::OpenBytes(bytes, &image).ok());
  std::vector<uint64_t> todo;
  for (uint64_t nid = 0; nid < bytes.size() / 32 + 2; nid++) {
    size_t entries = 0;
    Visit(*image, nid, &todo, &entries);
    todo.clear();
  }
  for (unsigned bit = 20; bit < 64; bit++) {
    size_t entries = 0;
    Visit(*image, uint64_t{1} << bit, &todo, &entries);
    Visit(*image, UINT64_MAX >> (63 - bit), &todo, &entries);
  }
}

// `thorough`: every bit and some values of each byte, every length; otherwise one change in every fifth byte.
void Attack(const char* name, std::vector<uint8_t> bytes, bool thorough) {
  const size_t whole = Walk(bytes);
  CHECK(whole >= 3);
  EveryNid(bytes);
  bytes[1024 + 8] &= ~1;  // without SB_CHKSUM, or no change near the superblock would get past Open
  CHECK(Walk(bytes) == whole);

  size_t opened = 0, runs = 0;
  for (size_t at = 1024; at < bytes.size(); at += thorough ? 1 : 5) {
    const uint8_t old = bytes[at];
    std::set<uint8_t> values = {static_cast<uint8_t>(~old)};
    if (thorough) {
      for (int bit = 0; bit < 8; bit++) values.insert(static_cast<uint8_t>(old ^ (1 << bit)));
      for (uint8_t v : {0x00, 0x01, 0x7f, 0x80, 0xff}) values.insert(v);
    }
    for (uint8_t v : values) {
      bytes[at] = v;
      opened += Walk(bytes) > 0;
      runs++;
    }
    bytes[at] = old;
  }
  // Lengths below the whole are refused when the superblock counts its blocks; 0 blocks lets the rest be reached.
  for (int i = 0; i < 4; i++) bytes[1024 + 36 + i] = 0;
  const size_t step = thorough ? 1 : 41;
  for (size_t length = 0; length < bytes.size(); length += step) {
    opened += Walk({bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length)}) > 0;
    runs++;
  }
  CHECK(opened > runs / 4);  // or the attack does not reach what it is meant to reach
  std::printf("%s: %zu inodes, %zu hostile variants, %zu of them opened\n", name, whole, runs, opened);
}

std::vector<uint8_t> ReadFile(const char* path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

// What the tiny image must say when it is whole.
void CheckTinyImage() {
  std::unique_ptr<Image> image;
  Status s = Image::OpenBytes(TinyImage(), &image);
  if (!s.ok()) std::fprintf(stderr, "%s\n", s.message.c_str());
  CHECK(s.ok());
  Dirent d;
  CHECK(image->Lookup(image->root_nid(), "file", &d).ok() && d.type == 1);
  Attr a;
  CHECK(image->GetAttr(d.nid, &a).ok() && a.size == 1000 && a.nlink == 1 && a.mtime_sec == kTinyEpoch + 5);
  std::vector<Extent> extents;
  CHECK(image->MapRange(d.nid, 0, 4096, &extents).ok());
  CHECK(extents.size() == 2 && extents[0].kind == ExtentKind::kDevice && extents[0].device == 1 &&
        extents[0].offset == 7 * 512 && extents[0].length == 512 && extents[1].kind == ExtentKind::kHole &&
        extents[1].file_offset == 512 && extents[1].length == 488);
  std::string text;
  CHECK(image->GetXattr(d.nid, "user.k", &text).ok() && text == "v1");
  CHECK(image->GetXattr(d.nid, "trusted.overlay.opaque", &text).ok() && text == "y");
  CHECK(image->ListXattr(d.nid, &text).ok() && text == std::string("user.k\0trusted.overlay.opaque\0", 30));
  CHECK(image->Lookup(image->root_nid(), "link", &d).ok());
  CHECK(image->ReadLink(d.nid, &text).ok() && text == "file");
  CHECK(image->Lookup(image->root_nid(), ".", &d).ok() && d.nid == image->root_nid());
  CHECK(image->Lookup(image->root_nid(), "nothing", &d).err == ENOENT);
  std::string names;
  CHECK(image->ReadDir(image->root_nid(), 0, [&](const Dirent& e, uint64_t) {
    names.append(e.name).append(" ");
    return true;
  }).ok());
  CHECK(names == ".. file link . ");
}

}  // namespace

int main(int argc, char** argv) {
  CheckTinyImage();
  Attack("built-in image", TinyImage(), true);
  std::vector<std::string> paths(argv + 1, argv + argc);
  if (const char* shared = std::getenv("OCIFS_SHARED"); paths.empty() && shared != nullptr)
    paths.push_back(std::string(shared) + "/fixtures/erofs-utils-1.9.3/layer.tarindex");
  for (const std::string& path : paths) Attack(path.c_str(), ReadFile(path.c_str()), false);
  std::printf("ok (%llx)\n", static_cast<unsigned long long>(checksum));
}
