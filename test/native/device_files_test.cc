// The device files below a kernel file system: their names, sizes, and what of each byte range lies where.
#include "../../native/fuse/device_files.h"

#include <sys/stat.h>

#include "check.h"
#include "erofs_tiny_image.h"

using namespace ocifs;
using fuse::Piece;

namespace {

constexpr uint64_t kDeviceBytes = 64 * 512 + 100;

struct Files {
  explicit Files(fuse::DeviceLayout layout) {
    std::unique_ptr<erofs::Image> opened;
    OK(erofs::Image::OpenBytes(TinyImage(), &opened));
    image = std::move(opened);
    layer::SpanStore::Options so;
    so.out_starts = {0, 3000, kDeviceBytes};
    OK(layer::SpanStore::Open(std::move(so), &store));
    OK(fuse::DeviceFiles::Create(image, {store}, layout, &files));
  }
  uint64_t Node(const char* name) const {
    uint64_t node = 0;
    OK(files->Lookup(FUSE_ROOT_ID, name, &node));
    return node;
  }
  fuse_attr Attr(uint64_t node) const {
    fuse_attr attr;
    OK(files->GetAttr(node, &attr));
    return attr;
  }
  std::vector<Piece> Map(uint64_t node, uint64_t offset, uint64_t size) const {
    std::vector<Piece> out;
    OK(files->MapRead(node, offset, size, &out));
    uint64_t at = offset;
    for (const Piece& p : out) {
      CHECK(p.length > 0 && p.file_offset == at);
      at += p.length;
    }
    return out;
  }

  std::shared_ptr<erofs::Image> image;
  std::shared_ptr<layer::SpanStore> store;
  std::unique_ptr<fuse::FileSystem> files;
};

void TestPerLayer() {
  const Files f(fuse::DeviceLayout::kPerLayer);
  std::vector<std::string> names;
  OK(f.files->ReadDir(FUSE_ROOT_ID, 0, [&](const fuse::Entry& e, uint64_t next) {
    names.emplace_back(e.name);
    CHECK(next == names.size());
    return true;
  }));
  CHECK((names == std::vector<std::string>{".", "..", "index", "1"}));
  CHECK(S_ISDIR(f.Attr(FUSE_ROOT_ID).mode));
  const uint64_t index = f.Node("index"), layer = f.Node("1");
  CHECK(S_ISREG(f.Attr(index).mode) && f.Attr(index).size == 4096);  // 3072 bytes of image
  CHECK(f.Attr(layer).size == 9 * 4096);
  uint64_t node;
  FAILS(f.files->Lookup(FUSE_ROOT_ID, "2", &node), "not-found");
  CHECK(f.files->Lookup(index, "x", &node).err == ENOTDIR);
  fuse_attr attr;
  CHECK(f.files->GetAttr(0, &attr).err == ENOENT && f.files->GetAttr(layer + 1, &attr).err == ENOENT);

  auto p = f.Map(index, 1000, 10000);
  CHECK(p.size() == 2 && p[0].kind == Piece::Kind::kBytes && p[0].bytes == f.image->data() + 1000 && p[0].length == 2072);
  CHECK(p[1].kind == Piece::Kind::kZeros && p[1].length == 1024);
  p = f.Map(layer, 4096, UINT64_MAX);
  CHECK(p.size() == 2 && p[0].kind == Piece::Kind::kDevice && p[0].device == 1 && p[0].offset == 4096);
  CHECK(p[0].length == kDeviceBytes - 4096 && p[1].kind == Piece::Kind::kZeros && p[1].length == 9 * 4096 - kDeviceBytes);
  CHECK(f.files->ReadAheadBytes(layer, p[0]) == p[0].length);
  CHECK(f.Map(layer, 9 * 4096, 4096).empty() && f.Map(layer, UINT64_MAX, UINT64_MAX).empty() && f.Map(layer, 0, 0).empty());
  std::vector<Piece> none;
  CHECK(f.files->MapRead(FUSE_ROOT_ID, 0, 10, &none).err == EISDIR && none.empty());
}

// The tiny image's slot is not mapped in the flat address space, so there is no flat file of it.
void TestFlatWantsUniaddr() {
  std::unique_ptr<erofs::Image> image;
  OK(erofs::Image::OpenBytes(TinyImage(), &image));
  layer::SpanStore::Options so;
  so.out_starts = {0, kDeviceBytes};
  std::shared_ptr<layer::SpanStore> store;
  OK(layer::SpanStore::Open(std::move(so), &store));
  std::unique_ptr<fuse::FileSystem> files;
  if (image->devices()[0].uniaddr == 0)
    FAILS(fuse::DeviceFiles::Create(std::move(image), {store}, fuse::DeviceLayout::kFlat, &files), "mismatch");
  else
    OK(fuse::DeviceFiles::Create(std::move(image), {store}, fuse::DeviceLayout::kFlat, &files));
}

void TestFlat() {
  std::vector<uint8_t> bytes = TinyImage();
  constexpr uint32_t kUniaddr = 10;
  std::memcpy(&bytes[1152 + 68], &kUniaddr, sizeof kUniaddr);
  std::unique_ptr<erofs::Image> image;
  OK(erofs::Image::OpenBytes(std::move(bytes), &image));
  CHECK(image->devices()[0].uniaddr == kUniaddr);
  layer::SpanStore::Options so;
  so.out_starts = {0, kDeviceBytes};
  std::shared_ptr<layer::SpanStore> store;
  OK(layer::SpanStore::Open(std::move(so), &store));
  std::unique_ptr<fuse::FileSystem> files;
  OK(fuse::DeviceFiles::Create(std::move(image), {store}, fuse::DeviceLayout::kFlat, &files));
  uint64_t node = 0;
  OK(files->Lookup(FUSE_ROOT_ID, "flat", &node));
  std::vector<Piece> p;
  OK(files->MapRead(node, 3000, 1 << 20, &p));
  CHECK(p.size() == 4 && p[0].kind == Piece::Kind::kBytes && p[0].length == 72);
  CHECK(p[1].kind == Piece::Kind::kZeros && p[1].length == kUniaddr * 512 - 3072);
  CHECK(p[2].kind == Piece::Kind::kDevice && p[2].offset == 0 && p[2].length == kDeviceBytes);
  CHECK(p[3].kind == Piece::Kind::kZeros);
}

}  // namespace

int main() {
  TestPerLayer();
  TestFlatWantsUniaddr();
  TestFlat();
  std::printf("ok\n");
}
