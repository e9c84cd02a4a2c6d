#include "plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "../erofs/format.h"
#include "format.h"

namespace ocifs::erofs {

namespace {

// The file ends on a page border: the kernel reads metadata by pages, and with the layer's tar right behind the index (one flat address space)
// a page across the border would make it fetch the layer to list a directory. It also lets the tar be cloned behind the index.
constexpr uint64_t kFileAlignment = 4096;

unsigned ChunkBitsOfWhole(double size) {
  unsigned bits = kTarindexBlockBits;
  while (bits < kMaxChunkBits && std::ldexp(1.0, static_cast<int>(bits)) < size) bits++;
  return bits;
}

// Largest chunk whose borders are all those between data and hole; 0 when there is none.
unsigned ChunkBitsOfPieces(double size, const TreeColumns::Pieces& pieces, uint64_t sparse_chunks) {
  unsigned bits = ChunkBitsOfWhole(size);
  for (size_t i = 0; i < pieces.count; i++) {
    const DataPiece& piece = pieces.first[i];
    const double end = piece.offset + piece.size;
    if (std::fmod(piece.device_offset, kTarindexBlockBytes) != 0 || end > size) return 0;
    for (; bits >= kTarindexBlockBits; bits--) {
      const double chunk = std::ldexp(1.0, static_cast<int>(bits));
      if (std::fmod(piece.offset, chunk) == 0 && (std::fmod(end, chunk) == 0 || end == size)) break;
    }
    if (bits < kTarindexBlockBits) return 0;
  }
  const auto chunks = [size](unsigned of) { return std::ceil(size / std::ldexp(1.0, static_cast<int>(of))); };
  return chunks(bits) > std::max(static_cast<double>(sparse_chunks), chunks(kMaxChunkBits)) ? 0 : bits;
}

class Planner {
 public:
  Planner(const TreeColumns& tree, const PlanLimits& limits, TarindexPlan* plan) : tree_(tree), limits_(limits), plan_(*plan) {}

  Status Run(uint64_t device_count) {
    const size_t inodes = tree_.inode_count;
    for (auto* column : {&plan_.nids, &plan_.link_counts}) column->assign(inodes, 0);
    plan_.start_blocks.assign(inodes, kNoBlock);
    for (auto* column : {&plan_.layouts, &plan_.extended, &plan_.chunk_bits}) column->assign(inodes, 0);
    plan_.directory_numbers.assign(inodes, 0);
    plan_.order.reserve(inodes);
    cursor_ = kSuperOffset + kSuperSize + device_count * kDeviceSlotSize;
    CountLinks();
    plan_.epoch_seconds = static_cast<int64_t>(MostFrequent([this](uint32_t inode) { return tree_.mtime_seconds[inode]; }));
    plan_.epoch_nanoseconds = static_cast<uint32_t>(MostFrequent([this](uint32_t inode) {
      return tree_.mtime_seconds[inode] == static_cast<double>(plan_.epoch_seconds) ? static_cast<double>(tree_.mtime_nanoseconds[inode])
                                                                                    : -1.0;
    }));
    Status s = PlaceInodes();
    if (!s.ok()) return s;
    plan_.inode_area_end = RoundUp(cursor_, kTarindexBlockBytes);
    plan_.size = RoundUp(PlaceBlocks(plan_.inode_area_end), kFileAlignment);
    if (plan_.size > limits_.tarindex_bytes)
      return Status::Limit("tarindex: " + std::to_string(plan_.size) + " bytes, the limit is " + std::to_string(limits_.tarindex_bytes));
    return s;
  }

 private:
  uint32_t InodeOf(int32_t entry) const { return static_cast<uint32_t>(tree_.inode[entry]); }
  bool IsDirectory(int32_t entry) const { return tree_.inode[entry] >= 0 && S_ISDIR(tree_.mode[tree_.inode[entry]]); }

  // A directory's links are its name, its `.` and the `..` of each directory in it.
  void CountLinks() {
    size_t entries = 0, directories = 0;
    for (int32_t entry = 0; entry < static_cast<int32_t>(tree_.entry_count); entry++) {
      if (tree_.inode[entry] < 0) continue;
      entries++;
      plan_.link_counts[InodeOf(entry)]++;
      if (!IsDirectory(entry)) continue;
      directories++;
      plan_.link_counts[InodeOf(entry)]++;
      if (entry != 0) plan_.link_counts[InodeOf(tree_.parent[entry])]++;
    }
    plan_.children.assign(entries + 2 * directories, 0);
  }

  // The most frequent value of inodes with links that is not negative; ties: the smaller one. 0 if there is none.
  template <class Value>
  double MostFrequent(Value value_of) const {
    std::unordered_map<double, uint32_t> counts;
    for (uint32_t inode = 0; inode < tree_.inode_count; inode++) {
      if (plan_.link_counts[inode] == 0) continue;
      const double value = value_of(inode);
      if (value >= 0) counts[value]++;
    }
    double best = 0;
    uint32_t best_count = 0;
    for (const auto& [value, count] : counts) {
      if (count < best_count || (count == best_count && value >= best)) continue;
      best = value;
      best_count = count;
    }
    return best;
  }

  // Inodes of one directory stand together, directories in depth-first order: the order `find` and `ls -lR` read them in.
  Status PlaceInodes() {
    std::vector<int32_t> todo{0};
    SortChildren(0);
    Status s = Place(InodeOf(0));
    while (s.ok() && !todo.empty()) {
      const uint32_t inode = InodeOf(todo.back());
      todo.pop_back();
      const size_t start = plan_.DirectoryOf(inode).child_start, end = plan_.DirectoryOf(inode).child_end;
      for (size_t i = start; s.ok() && i < end; i++) {
        const int32_t child = plan_.children[i];
        if (child < 0 || plan_.nids[InodeOf(child)] != 0) continue;
        if (IsDirectory(child)) SortChildren(child);
        s = Place(InodeOf(child));
      }
      for (size_t i = end; i > start; i--) {
        const int32_t child = plan_.children[i - 1];
        if (child >= 0 && IsDirectory(child)) todo.push_back(child);
      }
    }
    return s;
  }

  // Collects and sorts a directory's entries, and computes its size: whole blocks but the last.
  void SortChildren(int32_t directory) {
    const uint32_t inode = InodeOf(directory);
    const size_t start = child_count_;
    size_t end = start;
    for (int32_t child = tree_.first_child[directory]; child >= 0; child = tree_.next_sibling[child])
      if (tree_.inode[child] >= 0) plan_.children[end++] = child;
    int32_t* const children = plan_.children.data();
    // Tars are mostly in order, and the tree gives the last name first.
    std::reverse(children + start, children + end);
    const auto before = [this](int32_t a, int32_t b) {
      const size_t a_bytes = tree_.name_bytes[a], b_bytes = tree_.name_bytes[b];
      const int order = std::memcmp(NameOf(tree_, a), NameOf(tree_, b), std::min(a_bytes, b_bytes));
      return order != 0 ? order < 0 : a_bytes < b_bytes;
    };
    if (!std::is_sorted(children + start, children + end, before)) std::sort(children + start, children + end, before);
    Insert(start, end++, kDotEntry, [](const uint8_t* name, size_t) { return name[0] < '.'; });
    Insert(start, end++, kDotDotEntry,
           [](const uint8_t* name, size_t bytes) { return name[0] < '.' || (name[0] == '.' && (bytes < 2 || name[1] < '.')); });
    child_count_ = end;
    PlannedDirectory planned{directory, start, end, start, 0};
    for (size_t at = start, used = 0; at < end;) {
      planned.tail_start = at;
      at = DirectoryBlockEnd(tree_, plan_.children, at, end, &used);
      planned.bytes = RoundUp(planned.bytes, kTarindexBlockBytes) + used;
    }
    plan_.directory_numbers[inode] = static_cast<uint32_t>(plan_.directories.size());
    plan_.directories.push_back(planned);
  }

  template <class IsBefore>
  void Insert(size_t from, size_t to, int32_t special, IsBefore is_before) {
    std::vector<int32_t>& children = plan_.children;
    size_t at = from;
    while (at < to && (children[at] < 0 || is_before(NameOf(tree_, children[at]), tree_.name_bytes[children[at]]))) at++;
    std::copy_backward(children.begin() + static_cast<ptrdiff_t>(at), children.begin() + static_cast<ptrdiff_t>(to),
                       children.begin() + static_cast<ptrdiff_t>(to + 1));
    children[at] = special;
  }

  Status Place(uint32_t inode) {
    const uint16_t mode = tree_.mode[inode];
    const uint64_t size = S_ISDIR(mode) ? plan_.DirectoryOf(inode).bytes : static_cast<uint64_t>(tree_.size[inode]);
    const bool extended = NeedsExtended(inode, size);
    plan_.extended[inode] = extended;
    const uint64_t xattr_bytes = tree_.xattrs[inode] < 0 ? 0 : tree_.xattr_areas.lengths[tree_.xattrs[inode]];
    if (xattr_bytes > 0) plan_.has_xattrs = true;
    const uint64_t head = (extended ? kExtendedInodeSize : kCompactInodeSize) + xattr_bytes;
    uint64_t bytes = head;
    plan_.layouts[inode] = kLayoutPlain;
    if (S_ISREG(mode) && size > 0) {
      uint64_t chunks = 0;
      const Status s = PlanChunks(inode, &chunks);
      if (!s.ok()) return s;
      plan_.layouts[inode] = kLayoutChunk;
      bytes = RoundUp(head, kChunkIndexBytes) + kChunkIndexBytes * chunks;
    } else if (S_ISDIR(mode) || S_ISLNK(mode)) {
      // Linux before 6.12 refuses an inline symlink whose inode begins in an earlier block, so nothing inline crosses one.
      const uint64_t tail = S_ISLNK(mode) ? size : size % kTarindexBlockBytes;
      if (tail > 0 && head + tail <= kTarindexBlockBytes) {
        plan_.layouts[inode] = kLayoutInline;
        bytes = head + tail;
        if (cursor_ % kTarindexBlockBytes + bytes > kTarindexBlockBytes) cursor_ = RoundUp(cursor_, kTarindexBlockBytes);
      }
    }
    if (cursor_ + bytes > limits_.tarindex_bytes)
      return Status::Limit("tarindex: inodes need more than " + std::to_string(limits_.tarindex_bytes) + " bytes");
    plan_.nids[inode] = static_cast<uint32_t>(cursor_ >> kSlotBits);
    cursor_ = RoundUp(cursor_ + bytes, uint64_t{1} << kSlotBits);
    plan_.order.push_back(inode);
    return Status::Ok();
  }

  bool NeedsExtended(uint32_t inode, uint64_t size) const {
    return size > 0xffffffff || tree_.uid[inode] > 0xffff || tree_.gid[inode] > 0xffff || plan_.link_counts[inode] > 0xffff ||
           tree_.mtime_seconds[inode] != static_cast<double>(plan_.epoch_seconds) ||
           tree_.mtime_nanoseconds[inode] != plan_.epoch_nanoseconds;
  }

  Status PlanChunks(uint32_t inode, uint64_t* chunks) {
    const double size = tree_.size[inode];
    DataPiece whole;
    const unsigned bits = tree_.data[inode] >= 0 ? ChunkBitsOfWhole(size)
                                                 : ChunkBitsOfPieces(size, PiecesOf(tree_, inode, &whole), limits_.sparse_chunks);
    if (bits == 0) return Status{EIO, "internal", "tarindex: a file's extents do not fall on chunk borders"};
    plan_.chunk_bits[inode] = static_cast<uint8_t>(bits);
    *chunks = (static_cast<uint64_t>(size) + (uint64_t{1} << bits) - 1) >> bits;
    return Status::Ok();
  }

  // Gives directories and symlinks that do not fit beside their inode their blocks, in inode order.
  uint64_t PlaceBlocks(uint64_t cursor) {
    for (const uint32_t inode : plan_.order) {
      const uint16_t mode = tree_.mode[inode];
      const bool is_inline = plan_.layouts[inode] == kLayoutInline;
      uint64_t blocks = 0;
      if (S_ISDIR(mode))
        blocks = (is_inline ? plan_.DirectoryOf(inode).bytes : RoundUp(plan_.DirectoryOf(inode).bytes, kTarindexBlockBytes)) / kTarindexBlockBytes;
      else if (S_ISLNK(mode) && !is_inline)
        blocks = RoundUp(static_cast<uint64_t>(tree_.size[inode]), kTarindexBlockBytes) / kTarindexBlockBytes;
      if (blocks == 0) continue;
      plan_.start_blocks[inode] = static_cast<uint32_t>(cursor / kTarindexBlockBytes);
      cursor += blocks * kTarindexBlockBytes;
    }
    return cursor;
  }

  const TreeColumns& tree_;
  const PlanLimits limits_;
  TarindexPlan& plan_;
  uint64_t cursor_ = 0;
  size_t child_count_ = 0;
};

}  // namespace

size_t DirectoryBlockEnd(const TreeColumns& tree, const std::vector<int32_t>& children, size_t start, size_t end, size_t* used) {
  *used = 0;
  size_t at = start;
  for (; at < end; at++) {
    const size_t need = kDirentSize + NameBytes(tree, children[at]);
    if (*used + need > kTarindexBlockBytes) break;
    *used += need;
  }
  return at;
}

TreeColumns::Pieces PiecesOf(const TreeColumns& tree, uint32_t inode, DataPiece* whole) {
  if (tree.data[inode] >= 0) {
    *whole = {0, tree.size[inode], tree.data[inode]};
    return {whole, 1};
  }
  const auto found = tree.pieces.find(inode);
  return found == tree.pieces.end() ? TreeColumns::Pieces{nullptr, 0} : found->second;
}

Status TarindexPlan::Make(const TreeColumns& tree, uint64_t device_count, const PlanLimits& limits, TarindexPlan* plan) {
  return Planner(tree, limits, plan).Run(device_count);
}

}  // namespace ocifs::erofs
