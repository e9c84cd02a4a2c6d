// The tree of a tarindex, with the layers that its files lie in. A node is the EROFS nid, but for the root, which is 1.
#pragma once
#include "../erofs/image.h"
#include "file_system.h"

namespace ocifs::fuse {

class TreeFiles : public FileSystem {
 public:
  // `devices`: in the order of the image's slots.
  static Status Create(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices,
                       std::unique_ptr<FileSystem>* out);

  const std::vector<std::shared_ptr<layer::SpanStore>>& devices() const override { return devices_; }
  Totals totals() const override;
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
  TreeFiles(std::shared_ptr<erofs::Image> image, std::vector<std::shared_ptr<layer::SpanStore>> devices)
      : image_(std::move(image)), devices_(std::move(devices)) {}
  uint64_t ToNid(uint64_t node) const;
  uint64_t ToNode(uint64_t nid) const;

  const std::shared_ptr<erofs::Image> image_;
  const std::vector<std::shared_ptr<layer::SpanStore>> devices_;
};

}  // namespace ocifs::fuse
