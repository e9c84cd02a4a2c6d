#include "device_files.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>

namespace ocifs::fuse {

namespace {
constexpr uint64_t kFirstFile = 2;
constexpr uint64_t kBlockBytes = 4096;

// Up to a whole block of the page cache, so that a file system on it never reads across its end.
uint64_t RoundUp(uint64_t size) { return (size + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }
}  // namespace

Status DeviceFiles::Create(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices,
                           DeviceLayout layout, std::unique_ptr<FileSystem>* out) {
  if (devices.size() != image->devices().size())
    return Status::Mismatch("the tarindex names " + std::to_string(image->devices().size()) + " layers, " +
                            std::to_string(devices.size()) + " were given");
  std::unique_ptr<DeviceFiles> made(new DeviceFiles(std::move(image), std::move(devices)));
  if (layout == DeviceLayout::kFlat) {
    if (Status s = made->AddFlat(); !s.ok()) return s;
  } else {
    const uint64_t index = made->image_->size_bytes();
    made->files_.push_back({"index", RoundUp(index), {{0, index, 0}}});
    for (uint32_t slot = 1; slot <= made->devices_.size(); slot++) {
      const uint64_t size = made->devices_[slot - 1]->size_bytes();
      made->files_.push_back({std::to_string(slot), RoundUp(size), {{0, size, slot}}});
    }
  }
  *out = std::move(made);
  return Status::Ok();
}

Status DeviceFiles::AddFlat() {
  const uint64_t block = image_->block_size();
  File flat{"flat", image_->size_bytes(), {{0, image_->size_bytes(), 0}}};
  for (uint32_t slot = 1; slot <= devices_.size(); slot++) {
    const uint64_t blocks = image_->devices()[slot - 1].uniaddr, size = devices_[slot - 1]->size_bytes();
    if (blocks > (UINT64_MAX / 2) / block || blocks * block < flat.size || size > UINT64_MAX / 2)
      return Status::Mismatch("device slot " + std::to_string(slot) +
                              " of the tarindex is not mapped behind what lies before it in the flat address space");
    flat.parts.push_back({blocks * block, size, slot});
    flat.size = blocks * block + size;
  }
  flat.size = RoundUp(flat.size);
  files_.push_back(std::move(flat));
  return Status::Ok();
}

const DeviceFiles::File* DeviceFiles::Find(uint64_t node) const {
  return node >= kFirstFile && node - kFirstFile < files_.size() ? &files_[node - kFirstFile] : nullptr;
}

Totals DeviceFiles::totals() const {
  Totals out{0, files_.size() + 1};
  for (const File& f : files_) out.bytes += f.size;
  return out;
}

Status DeviceFiles::GetAttr(uint64_t node, fuse_attr* out) const {
  const File* file = Find(node);
  if (!file && node != FUSE_ROOT_ID) return Status::NotFound("device file");
  *out = {};
  out->ino = node;
  out->nlink = 1;
  out->blksize = kBlockBytes;
  out->mode = file ? S_IFREG | 0400 : S_IFDIR | 0500;
  out->size = file ? file->size : 0;
  out->blocks = (out->size + 511) / 512;
  return Status::Ok();
}

Status DeviceFiles::Lookup(uint64_t directory, std::string_view name, uint64_t* node) const {
  if (directory != FUSE_ROOT_ID) return {ENOTDIR, "usage", "not a directory"};
  const auto it = std::find_if(files_.begin(), files_.end(), [&](const File& f) { return f.name == name; });
  if (it == files_.end()) return Status::NotFound("device file");
  *node = kFirstFile + static_cast<uint64_t>(it - files_.begin());
  return Status::Ok();
}

Status DeviceFiles::ReadDir(uint64_t directory, uint64_t cookie,
                            const std::function<bool(const Entry&, uint64_t)>& emit) const {
  if (directory != FUSE_ROOT_ID) return {ENOTDIR, "usage", "not a directory"};
  for (uint64_t i = cookie; i < files_.size() + 2; i++) {
    const uint64_t node = i < 2 ? FUSE_ROOT_ID : kFirstFile + i - 2;
    const std::string_view name = i == 0 ? std::string_view(".") : i == 1 ? std::string_view("..") : files_[i - 2].name;
    if (!emit({name, node, node, uint32_t{i < 2 ? DT_DIR : DT_REG}}, i + 1)) break;
  }
  return Status::Ok();
}

Status DeviceFiles::ReadLink(uint64_t, std::string*) const { return Status::Usage("a device file is no symbolic link"); }

Status DeviceFiles::GetXattr(uint64_t, std::string_view, std::string*) const {
  return {ENODATA, "not-found", "device files have no extended attributes"};
}

Status DeviceFiles::ListXattr(uint64_t, std::string*) const { return Status::Ok(); }

Status DeviceFiles::MapRead(uint64_t node, uint64_t offset, uint64_t size, std::vector<Piece>* out) const {
  const File* file = Find(node);
  if (!file) return node == FUSE_ROOT_ID ? Status{EISDIR, "usage", "a directory"} : Status::NotFound("device file");
  if (offset >= file->size) return Status::Ok();
  const uint64_t end = offset + std::min(size, file->size - offset);
  const auto zeros_to = [&](uint64_t stop) {
    if (stop > offset) out->push_back({Piece::Kind::kZeros, stop - offset, nullptr, 0, 0, offset});
    offset = std::max(offset, stop);
  };
  for (const Part& part : file->parts) {
    if (part.begin + part.length <= offset) continue;
    if (part.begin >= end) break;
    zeros_to(part.begin);
    const uint64_t in_part = offset - part.begin, length = std::min(end, part.begin + part.length) - offset;
    if (part.device == 0)
      out->push_back({Piece::Kind::kBytes, length, image_->data() + in_part, 0, 0, offset});
    else
      out->push_back({Piece::Kind::kDevice, length, nullptr, part.device, in_part, offset});
    offset += length;
  }
  zeros_to(end);
  return Status::Ok();
}

uint64_t DeviceFiles::ReadAheadBytes(uint64_t, const Piece& piece) const {
  // Which file of the image is read, and where it ends, only the kernel knows; its own reading ahead comes here as requests.
  return piece.length;
}

}  // namespace ocifs::fuse
