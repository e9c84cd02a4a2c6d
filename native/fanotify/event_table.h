// The events of one mount that were read and not answered yet, in a memory file that outlives the process that read them.
//
// The kernel hands an event out once, and takes the answer from any process that has the group's descriptor: an event is named by the
// number that its descriptor had in the process that read it. So whoever goes on with a mount needs these numbers and what they stand for.
// An event is read into `inbox` directly. It is in the file whenever read(2) may have taken it from the queue, however the
// reader ends.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "../base/status.h"

namespace ocifs::fanotify {

constexpr uint32_t kEventsMax = 1024;  // further ones wait in the kernel
constexpr size_t kInboxBytes = 64;     // metadata and one range, 48 bytes, and no room for a second event

struct Event {
  int32_t fd = -1;
  uint32_t device = 0;  // 1-based; 0: not known which of the mount's
  uint64_t offset = 0, count = 0;
};

class EventTable {
 public:
  // An empty table in a new memory file.
  static Status Create(int* fd);
  // Takes `fd` over. `corrupt` when it holds no table.
  static Status Map(int fd, std::unique_ptr<EventTable>* out);
  ~EventTable();
  EventTable(const EventTable&) = delete;
  EventTable& operator=(const EventTable&) = delete;

  int fd() const { return fd_; }
  uint8_t* inbox();
  // Before and after each event.
  void ClearInbox();
  // The entry of an event, which is in the table from now on; kEventsMax when it is full.
  uint32_t Add(const Event& event);
  Event at(uint32_t entry) const;
  void Remove(uint32_t entry);
  // What a process that read events left: entries in use, the event in the inbox among them.
  std::vector<uint32_t> Recover();

 private:
  struct Layout;
  EventTable() = default;
  int fd_ = -1;
  Layout* layout_ = nullptr;
  uint32_t next_ = 0;
};

}  // namespace ocifs::fanotify
