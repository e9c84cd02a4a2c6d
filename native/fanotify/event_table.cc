#include "event_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>

#include "group.h"

namespace ocifs::fanotify {

namespace {
constexpr char kMagic[8] = {'O', 'C', 'I', 'F', 'S', 'E', 'V', 'T'};
constexpr uint32_t kVersion = 1;

struct Entry {
  std::atomic<int32_t> fd_after;  // the descriptor's number and one; 0: free
  uint32_t device;
  uint64_t offset, count;
};
}  // namespace

struct EventTable::Layout {
  char magic[8];
  uint32_t version;
  uint32_t entry_count;
  alignas(8) uint8_t inbox[kInboxBytes];
  Entry entries[kEventsMax];
};

Status EventTable::Create(int* fd) {
  *fd = memfd_create("ocifs-events", MFD_CLOEXEC);
  if (*fd < 0) return Status::Errno(errno, "create event table");
  // Allocated, not just sized: there must be no page that cannot be had when an event is read into it.
  int err = posix_fallocate(*fd, 0, sizeof(Layout));
  Layout head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.version = kVersion;
  head.entry_count = kEventsMax;
  if (err == 0 && pwrite(*fd, &head, offsetof(Layout, inbox), 0) < 0) err = errno;
  if (err == 0) return Status::Ok();
  close(*fd);
  *fd = -1;
  return Status::Errno(err, "create event table");
}

Status EventTable::Map(int fd, std::unique_ptr<EventTable>* out) {
  std::unique_ptr<EventTable> table(new EventTable());
  table->fd_ = fd;
  struct stat st;
  if (fstat(fd, &st) < 0) return Status::Errno(errno, "stat event table");
  if (static_cast<uint64_t>(st.st_size) != sizeof(Layout)) return Status::Corrupt("event table: it has another size");
  void* p = mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (p == MAP_FAILED) return Status::Errno(errno, "map event table");
  table->layout_ = static_cast<Layout*>(p);
  const Layout& l = *table->layout_;
  if (std::memcmp(l.magic, kMagic, sizeof kMagic) != 0 || l.version != kVersion || l.entry_count != kEventsMax)
    return Status::Corrupt("event table: it was made by another version");
  *out = std::move(table);
  return Status::Ok();
}

EventTable::~EventTable() {
  if (layout_) munmap(layout_, sizeof(Layout));
  if (fd_ >= 0) close(fd_);
}

uint8_t* EventTable::inbox() { return layout_->inbox; }

void EventTable::ClearInbox() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::memset(layout_->inbox, 0, kInboxBytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

uint32_t EventTable::Add(const Event& event) {
  for (uint32_t tries = 0; tries < kEventsMax; tries++) {
    const uint32_t i = next_;
    next_ = (next_ + 1) % kEventsMax;
    Entry& e = layout_->entries[i];
    if (e.fd_after.load(std::memory_order_relaxed) != 0) continue;
    e.device = event.device;
    e.offset = event.offset;
    e.count = event.count;
    e.fd_after.store(event.fd + 1, std::memory_order_release);
    return i;
  }
  return kEventsMax;
}

Event EventTable::at(uint32_t entry) const {
  const Entry& e = layout_->entries[entry];
  return {e.fd_after.load(std::memory_order_acquire) - 1, e.device, e.offset, e.count};
}

void EventTable::Remove(uint32_t entry) { layout_->entries[entry].fd_after.store(0, std::memory_order_release); }

std::vector<uint32_t> EventTable::Recover() {
  std::vector<uint32_t> used;
  fanotify_event_metadata metadata;
  std::memcpy(&metadata, layout_->inbox, sizeof metadata);
  bool in_inbox = metadata.event_len != 0 && (metadata.mask & FAN_PRE_ACCESS) && metadata.fd >= 0;
  for (uint32_t i = 0; i < kEventsMax; i++) {
    const Event e = at(i);
    if (e.fd < 0) continue;
    used.push_back(i);
    if (e.fd == metadata.fd) in_inbox = false;
  }
  if (in_inbox) {
    RangeInfo range{};
    if (metadata.event_len >= metadata.metadata_len + sizeof range && metadata.metadata_len + sizeof range <= kInboxBytes)
      std::memcpy(&range, layout_->inbox + metadata.metadata_len, sizeof range);
    // Which file it was its descriptor told, which is gone. Without a range it is about everything.
    const bool ranged = range.header.info_type == FAN_EVENT_INFO_TYPE_RANGE;
    const uint32_t i = Add({metadata.fd, 0, ranged ? range.offset : 0, ranged ? range.count : UINT64_MAX});
    if (i < kEventsMax) used.push_back(i);
  }
  ClearInbox();
  return used;
}

}  // namespace ocifs::fanotify
