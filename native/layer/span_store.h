// SpanStore: the uncompressed tar of one layer as far as it is known, and who waits for the rest.
//
// Two files back it: `data` (sparse, uncompressed bytes) and `spans` (header and one state byte a span, memory-mapped and
// shared between processes). A state byte is set after the span's bytes were verified and written; `data` alone says
// nothing, because span edges are not block-aligned. When `data` cannot be written (disk full, read-only cache), spans
// go to a bounded memory file of this process instead, so reads still succeed.
//
// Thread-safe. Readers take no lock when their spans are present. Layout of `spans`: docs/FORMATS.md.
#pragma once
#include <atomic>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../base/status.h"

namespace ocifs::layer {

constexpr size_t kSpansHeaderBytes = 4096;
constexpr uint32_t kSpansVersion = 1;

enum SpanState : uint8_t {
  kAbsent = 0,
  kPresent = 1,
  // Set before an unclean reboot: the bytes may not have reached the disk. Counts as absent for readers until checked.
  kSuspect = 2,
};

// Who waits for spans. Exactly one of the two is called, from any thread, never with a store lock held.
class Waiter {
 public:
  virtual ~Waiter() = default;
  virtual void OnReady() = 0;
  virtual void OnError(int err) = 0;
};

struct SpanRange {
  uint64_t first = 0, last = 0;  // inclusive
};

// When a span was last read or written, by a clock that all stores of this process share.
struct SpanUse {
  uint64_t span = 0;
  uint32_t used = 0;
  uint64_t bytes = 0;
};

enum class Target {
  kData,
  kMemory,
  kNone,  // the span is there already
};

class SpanStore {
 public:
  struct Options {
    int data_fd = -1;    // taken over, made as large as the layer; -1: no disk cache, everything in memory
    int spans_fd = -1;   // taken over; -1: states live in this process only
    std::vector<uint64_t> out_starts;        // span_count + 1 values, first 0, last = size of the layer
    std::array<uint8_t, 32> partition{};     // identity of the span table; a `spans` file of another one is refused
    std::array<uint8_t, 16> boot_id{};
    uint64_t memory_bytes = 64ull << 20;     // limit of the memory file
  };
  static Status Open(Options options, std::shared_ptr<SpanStore>* out);
  ~SpanStore();
  SpanStore(const SpanStore&) = delete;
  SpanStore& operator=(const SpanStore&) = delete;

  uint64_t size_bytes() const { return out_.back(); }
  uint64_t span_count() const { return out_.size() - 1; }
  uint64_t span_begin(uint64_t i) const { return out_[i]; }
  uint64_t span_size(uint64_t i) const { return out_[i + 1] - out_[i]; }
  // REQUIRES: offset < size_bytes().
  uint64_t SpanAt(uint64_t offset) const;

  SpanState state(uint64_t span) const;
  bool present(uint64_t span) const;  // in `data` or in memory
  uint64_t present_count() const;
  uint64_t data_count() const;  // those of them that are in `data`
  // Grows with each eviction from `data`, by whatever process: what was read at one value was read of one set of bytes.
  uint64_t evict_generation() const { return EvictGeneration(); }
  uint64_t present_bytes() const;

  // Reads [offset, offset + size), which must lie inside the layer. True: `buf` is filled. False with a range: of those spans
  // some are missing. They are all that the read needs: who waits for the missing ones must keep the others, or each that
  // comes could take the place of one that is there, without end. A non-ok status is a failed read of a file that should have the bytes.
  Status Read(uint64_t offset, size_t size, uint8_t* buf, bool* ready, SpanRange* missing);

  // Registers `waiter` until every span of `range` is present or one of them fails. False when all are present already:
  // the waiter was not registered, read again.
  bool Park(SpanRange range, std::shared_ptr<Waiter> waiter);
  // Forgets the waiter; it is not called. False when it had left already.
  bool Unpark(const Waiter* waiter);
  // Wakes who waits for spans of `range` and has them all: another process may have brought them, or an eviction may have
  // undone what one commit saw. False when some span of `range` is missing.
  bool Wake(SpanRange range);
  void Fail(SpanRange range, int err);  // everyone who waits for any span of the range
  void FailAll(int err);

  // Writing one span: Begin picks the file and claims the span, Write puts a piece at `offset` of the span, Commit makes
  // it visible and wakes waiters, Abort forgets it. A span has one writer in `data`, here and in all processes: bytes are
  // checked after they are written, so a second one could put wrong bytes under a state that says "present".
  // Target kNone: the span is present, there is nothing to write or abort. `busy`, of any of the three: the span is written already or was evicted meanwhile, or memory is full of spans that
  // are being written; Begin again in a moment. After a failed Begin or Commit there is nothing to abort.
  // `only_memory`: there is no room for it on disk just now.
  Status BeginSpan(uint64_t span, Target* target, bool only_memory = false);
  Status WriteSpan(Target target, uint64_t span, uint64_t offset, const uint8_t* data, size_t size);
  Status CommitSpan(Target target, uint64_t span);
  void AbortSpan(Target target, uint64_t span);
  // Makes spans of `range` present whose bytes are in `data` already: the caller has put them there and checked them, and
  // knows that nobody has written to them since. Each is claimed as BeginSpan does; one that is present, is being written or
  // evicted, here or in another process, is left alone. `adopted` counts those that became present.
  Status Adopt(SpanRange range, uint64_t* adopted);
  // From now on spans go to memory. The caller logs why.
  // Space may have come back: the next span is written to data again.
  void RetryDisk() { disk_ok_.store(data_fd_ >= 0, std::memory_order_relaxed); }
  void DisableDisk() { disk_ok_.store(false, std::memory_order_relaxed); }
  bool disk_ok() const { return disk_ok_.load(std::memory_order_relaxed); }

  // A suspect span whose digest was found right (who waits for it is woken), or wrong.
  void SettleSuspect(uint64_t span, bool good);
  // Suspect spans are present: somebody knows that all of `data` was flushed and right before the reboot.
  void TrustSuspect();
  // Forgets what is in memory and not in `data`, so that it can be written there: the process that was writing it there when
  // it came here may have died.
  void ForgetMemory();
  // Forgets [range]: states first, then the bytes of its whole pages. Readers notice by the generation; writers of this
  // process fail with `busy`, those of others are waited for.
  Status Evict(SpanRange range);
  // The least recently used spans of `data`, at most `count`, oldest first; those that somebody waits for are left out.
  std::vector<SpanUse> LeastRecent(size_t count);
  // As Evict, of single spans and without waiting: spans that somebody waits for, or that are being written here or in another
  // process, stay. `freed` counts the bytes of holes that were made.
  Status TryEvict(const std::vector<uint64_t>& spans, uint64_t* freed);
  Status ReadRaw(uint64_t span, uint64_t offset, uint8_t* buf, size_t size) const;  // from `data`, whatever the state

  // Lends `data` to a file system of the kernel's own: `fd`, the caller's, is read-only. -1 when it cannot be: spans are missing or
  // being written or evicted, or the mark cannot be set. Until the machine starts again nobody punches or writes a file that was
  // lent, in whatever process, for the kernel may keep it longer than any of them lives. It may be removed.
  Status Lend(int* fd);
  bool Lent() const;

  // Gives `data`, holes and all, to a file system of the kernel's own whose reads of it raise events (native/fanotify): `fd`, the
  // caller's, is read-only. Until the machine starts again nobody punches the file, in whatever process; it is written as ever. Waits
  // until those have ended who were at it when the mark was set; `busy` when they do not. `unsupported` without files on disk.
  Status Watch(int* fd);
  bool Watched() const;
  // All of `range` is in `data`, where the kernel may read it.
  bool InData(SpanRange range) const;
  // Copies what is in memory only to `data`. kAbsent: some of `range` is nowhere. kBusy: somebody else writes or evicts it just now.
  enum class Promotion { kInData, kAbsent, kBusy };
  Status Promote(SpanRange range, Promotion* outcome);
  // Of the file, for events that speak of it; false when there is none.
  bool DataIdentity(uint64_t* device, uint64_t* inode) const;

  // Flushes `data`, then marks the header clean if no other process uses it. The last call on a store.
  Status FlushClean();

 private:
  SpanStore() = default;
  struct Header;
  struct Parked {
    SpanRange range;
    std::shared_ptr<Waiter> waiter;
  };
  Status CheckData(bool* lost);
  Status MapSpans(const Options& o);
  Status EnsureMemory();
  std::atomic<uint8_t>& StateByte(uint64_t span) const;
  uint64_t EvictGeneration() const;
  Status MarkClean();
  bool WholeInData() const;
  bool Marked(const char* xattr) const;  // in this boot
  bool Pinned() const { return Lent() || Watched(); }
  Status PromoteSpan(uint64_t span, Promotion* outcome);
  void NoteUse(SpanRange range);
  void NoteCommit(uint64_t span);
  int FdOf(uint64_t span) const;  // the file that has the span now, -1 for none
  // All below: REQUIRES(mutex_).
  void TakeReady(SpanRange range, std::vector<std::shared_ptr<Waiter>>* out);
  Status ReserveMemory(uint64_t span);
  void DropFromMemory(uint64_t span);
  void PunchMemory(uint64_t span);
  void UnlockSpan(uint64_t span);
  void EndWriting(Target target, uint64_t span);
  void Discard(Target target, uint64_t span);
  Status Clear(SpanRange range);
  bool Awaited(uint64_t span) const;
  bool TryLockSpan(uint64_t span);
  Status PunchSpan(uint64_t span, std::vector<uint64_t>* locked, uint64_t* punched);

  std::vector<uint64_t> out_;
  int data_fd_ = -1, spans_fd_ = -1, memory_fd_ = -1;
  std::array<uint8_t, 16> boot_id_{};
  uint8_t* map_ = nullptr;  // header + states; anonymous when there is no spans file
  size_t map_size_ = 0;
  std::atomic<bool> disk_ok_{true};

  struct Writing {
    bool evicted = false;  // what was written of it may be gone
  };

  std::mutex mutex_;
  std::condition_variable written_;                   // a span left `writing_`, or an eviction is over
  std::unordered_map<uint64_t, Writing> writing_;     // GUARDED_BY(mutex_): spans between Begin and Commit or Abort
  std::optional<SpanRange> evicting_;                 // GUARDED_BY(mutex_)
  std::vector<Parked> parked_;                        // GUARDED_BY(mutex_)
  std::deque<uint64_t> memory_order_;                 // GUARDED_BY(mutex_): spans in memory, oldest first
  uint64_t memory_used_ = 0, memory_limit_ = 0;       // GUARDED_BY(mutex_); spans that are being written count
  std::unique_ptr<std::atomic<uint8_t>[]> memory_state_;
  std::unique_ptr<std::atomic<uint32_t>[]> used_;     // for LeastRecent
  std::atomic<uint64_t> memory_generation_{0};        // raised before a span's bytes leave memory
};

}  // namespace ocifs::layer
