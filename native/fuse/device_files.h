// A flat directory of device files, for a file system of the kernel's own that lies on them: "index" holds the bytes of the
// tarindex; then either "1", "2", … hold the layers' tars, one file a layer, or "flat" holds the index and all tars in the
// flat address space of the image (each tar at its slot's uniaddr), for a kernel mount without `device=`.
#pragma once
#include "../erofs/image.h"
#include "file_system.h"

namespace ocifs::fuse {

enum class DeviceLayout { kPerLayer, kFlat };

class DeviceFiles : public FileSystem {
 public:
  // `devices`: in the order of the image's slots. kFlat wants slots that are mapped in the flat address space, in order and
  // without overlap ("mismatch" otherwise).
  static Status Create(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices,
                       DeviceLayout layout, std::unique_ptr<FileSystem>* out);

  const std::vector<std::shared_ptr<layer::SpanStore>>& devices() const override { return devices_; }
  Totals totals() const override;
  bool direct_reads_in_background() const override { return true; }
  Status GetAttr(uint64_t node, fuse_attr* out) const override;
  Status Lookup(uint64_t directory, std::string_view name, uint64_t* node) const override;
  Status ReadDir(uint64_t directory, uint64_t cookie,
                 const std::function<bool(const Entry&, uint64_t)>& emit) const override;
  Status ReadLink(uint64_t node, std::string* out) const override;
  Status GetXattr(uint64_t node, std::string_view name, std::string* out) const override;
  Status ListXattr(uint64_t node, std::string* out) const override;
  Status MapRead(uint64_t node, uint64_t offset, uint64_t size, std::vector<Piece>* out) const override;
  uint64_t ReadAheadBytes(uint64_t node, const Piece& piece) const override;

 private:
  // Where a device, or the index (slot 0), lies in a file. What lies between is zeros.
  struct Part {
    uint64_t begin = 0, length = 0;
    uint32_t device = 0;
  };
  struct File {
    std::string name;
    uint64_t size = 0;
    std::vector<Part> parts;  // ascending
  };

  DeviceFiles(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices)
      : image_(std::move(image)), devices_(std::move(devices)) {}
  Status AddFlat();
  const File* Find(uint64_t node) const;

  const std::shared_ptr<erofs::Image> image_;
  const std::vector<std::shared_ptr<layer::SpanStore>> devices_;
  std::vector<File> files_;  // node kFirstFile + i
};

}  // namespace ocifs::fuse
