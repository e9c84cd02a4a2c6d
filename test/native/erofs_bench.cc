// Speed of the EROFS reader on one thread, over a warm mapping: erofs_bench IMAGE. Prints one line a measure.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "../../native/erofs/image.h"

using namespace ocifs::erofs;

namespace {

struct Named {
  uint64_t dir;
  std::string name;
  uint64_t nid;
};

void Walk(const Image& image, uint64_t dir, std::vector<Named>* out) {
  const size_t first = out->size();
  if (!image.ReadDir(dir, 0, [&](const Dirent& d, uint64_t) {
        if (d.name != "." && d.name != "..") out->push_back({dir, std::string(d.name), d.nid});
        return true;
      }).ok())
    std::abort();
  const size_t last = out->size();
  for (size_t i = first; i < last; i++) {
    Attr a;
    if (!image.GetAttr((*out)[i].nid, &a).ok()) std::abort();
    if (S_ISDIR(a.mode)) Walk(image, a.nid, out);
  }
}

template <typename F>
void Measure(const char* what, size_t count, F run) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < 5; i++) {
    const auto start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::printf("%-26s %9.0f /s  %7.1f ns each  (%zu in %.2f ms)\n", what, count / best, best / count * 1e9, count, best * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  const int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
  std::unique_ptr<Image> image;
  if (fd < 0 || !Image::Open(fd, &image).ok()) {
    std::fprintf(stderr, "usage: erofs_bench IMAGE\n");
    return 2;
  }
  close(fd);
  std::vector<Named> all;
  Measure("walk (readdir + getattr)", image->inode_count(), [&] {
    all.clear();
    Walk(*image, image->root_nid(), &all);
  });
  uint64_t sum = 0;
  Measure("lookup, present", all.size(), [&] {
    for (const Named& n : all) {
      Dirent d;
      if (!image->Lookup(n.dir, n.name, &d).ok() || d.nid != n.nid) std::abort();
    }
  });
  Measure("lookup, absent", all.size(), [&] {
    for (const Named& n : all) {
      Dirent d;
      sum += image->Lookup(n.dir, "no-such-name", &d).err;
    }
  });
  Measure("getattr", all.size(), [&] {
    for (const Named& n : all) {
      Attr a;
      if (!image->GetAttr(n.nid, &a).ok()) std::abort();
      sum += a.size;
    }
  });
  std::string value;
  Measure("getxattr, absent", all.size(), [&] {
    for (const Named& n : all) sum += image->GetXattr(n.nid, "security.capability", &value).err;
  });
  std::vector<Extent> extents;
  Measure("map 128 KiB", all.size(), [&] {
    for (const Named& n : all) {
      extents.clear();
      sum += image->MapRange(n.nid, 0, 128 << 10, &extents).err;
    }
  });
  std::printf("(%llx)\n", static_cast<unsigned long long>(sum));
}
