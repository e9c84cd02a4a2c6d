#include "span_store_private.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "quiet_file.h"

namespace ocifs::layer {

namespace {
constexpr char kMagic[8] = {'O', 'C', 'I', 'F', 'S', 'S', 'P', 'N'};
constexpr uint32_t kFlagClean = 1;

Status FullPread(int fd, uint8_t* buf, size_t size, uint64_t offset, const char* what) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = pread(fd, buf + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, std::string("read ") + what);
    // A hole or a truncated file must never be taken for data.
    if (n == 0) return Status::Corrupt(std::string(what) + " is shorter than its span table says");
    done += static_cast<size_t>(n);
  }
  return Status::Ok();
}
}  // namespace

Status SpanStore::Open(Options o, std::shared_ptr<SpanStore>* out) {
  std::shared_ptr<SpanStore> s(new SpanStore());
  s->data_fd_ = o.data_fd;
  s->spans_fd_ = o.spans_fd;
  if (o.out_starts.empty() || o.out_starts.front() != 0)
    return Status::Usage("span table: it begins at 0");
  for (size_t i = 1; i < o.out_starts.size(); i++)
    if (o.out_starts[i] <= o.out_starts[i - 1]) return Status::Usage("span table: offsets must grow");
  s->out_ = std::move(o.out_starts);
  s->disk_ok_ = s->data_fd_ >= 0;
  s->memory_limit_ = o.memory_bytes;
  s->boot_id_ = o.boot_id;
  s->memory_state_ = std::make_unique<std::atomic<uint8_t>[]>(s->span_count());
  s->used_ = std::make_unique<std::atomic<uint32_t>[]>(s->span_count());
  // After the file was opened: who marks it later makes it raise events after that, for descriptors that are opened then.
  if (s->Watched()) {
    int quiet;
    if (Status st = OpenQuietly(s->data_fd_, &quiet); !st.ok()) return st;
    close(s->data_fd_);
    s->data_fd_ = quiet;
  }
  if (Status st = s->MapSpans(o); !st.ok()) return st;
  *out = std::move(s);
  return Status::Ok();
}

// `lost`: `data` is shorter than the layer, because it is new or somebody replaced it; what the states say of it is not so.
Status SpanStore::CheckData(bool* lost) {
  struct stat st;
  if (fstat(data_fd_, &st) < 0) return Status::Errno(errno, "stat layer data");
  *lost = static_cast<uint64_t>(st.st_size) < size_bytes();
  if (!*lost) return Status::Ok();
  // Whoever uses the states now has another file in hand, deleted since, and would go on marking what is only in that one.
  if (spans_fd_ >= 0 && SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, kUseLockByte) < 0)
    return Status::Errno(errno == EAGAIN || errno == EACCES ? EBUSY : errno, "layer data was replaced while it is used");
  return Status::Ok();
}

Status SpanStore::MapSpans(const Options& o) {
  map_size_ = kSpansHeaderBytes + span_count();
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  HeaderLock lock(spans_fd_);
  if (!lock.held()) return Status::Errno(errno, "lock span states");
  bool fresh = true, data_lost = false;
  if (data_fd_ >= 0)
    if (Status s = CheckData(&data_lost); !s.ok()) return s;
  if (spans_fd_ >= 0) {
    if (SetLock(spans_fd_, F_OFD_SETLK, F_RDLCK, kUseLockByte) < 0) return Status::Errno(errno, "lock span states");
    flags = MAP_SHARED;
    struct stat st;
    if (fstat(spans_fd_, &st) < 0) return Status::Errno(errno, "stat span states");
    fresh = st.st_size == 0;
    if (fresh) {
      // Allocated, not just sized: a store to a page of a full file system would be SIGBUS.
      if (int e = posix_fallocate(spans_fd_, 0, static_cast<off_t>(map_size_)); e != 0)
        return Status::Errno(e, "allocate span states");
    } else if (static_cast<uint64_t>(st.st_size) != map_size_) {
      return Status::Mismatch("span states: the file has " + std::to_string(st.st_size) + " bytes, this span table needs " +
                              std::to_string(map_size_));
    }
  }
  void* p = mmap(nullptr, map_size_, PROT_READ | PROT_WRITE, flags, spans_fd_, 0);
  if (p == MAP_FAILED) return Status::Errno(errno, "map span states");
  map_ = static_cast<uint8_t*>(p);
  auto* h = reinterpret_cast<Header*>(map_);
  // An all-zero header is a file whose creator died between allocating and writing it.
  if (!fresh && std::all_of(map_, map_ + sizeof(Header), [](uint8_t b) { return b == 0; })) fresh = true;
  if (fresh) {
    // Its states were removed and it was not, which only a removal that was cut short does.
    if (Lent()) return Status::Errno(EBUSY, "layer data is lent to a kernel mount, and its states are gone");
    std::memset(map_ + kSpansHeaderBytes, 0, span_count());
    h->version = kSpansVersion;
    h->header_bytes = kSpansHeaderBytes;
    h->span_count = span_count();
    h->data_bytes = size_bytes();
    std::memcpy(h->boot_id, o.boot_id.data(), 16);
    std::memcpy(h->partition, o.partition.data(), 32);
    std::memcpy(h->magic, kMagic, 8);
  } else {
    if (std::memcmp(h->magic, kMagic, 8) != 0) return Status::Corrupt("span states: bad magic");
    if (h->version != kSpansVersion)
      return Status::Unsupported("span states: version " + std::to_string(h->version) + " is not known");
    if (h->header_bytes != kSpansHeaderBytes || h->span_count != span_count() || h->data_bytes != size_bytes() ||
        std::memcmp(h->partition, o.partition.data(), 32) != 0)
      return Status::Mismatch("span states: the file belongs to another span table");
    if (std::memcmp(h->boot_id, o.boot_id.data(), 16) != 0) {
      if (!(h->flags & kFlagClean))
        for (uint64_t i = 0; i < span_count(); i++) {
          uint8_t was = kPresent;
          StateByte(i).compare_exchange_strong(was, kSuspect);
        }
      std::memcpy(h->boot_id, o.boot_id.data(), 16);
    }
    if (data_lost)
      for (uint64_t i = 0; i < span_count(); i++) StateByte(i).store(kAbsent);
  }
  h->flags.fetch_and(~kFlagClean);
  // The header must be on disk before any state byte can be: otherwise a power cut could leave "clean" beside states
  // whose data was never written.
  if (spans_fd_ >= 0 && msync(map_, kSpansHeaderBytes, MS_SYNC) < 0) return Status::Errno(errno, "flush span states");
  // Last: whoever comes after a crash must not find `data` whole and the states of another one.
  if (data_lost && ftruncate(data_fd_, static_cast<off_t>(size_bytes())) < 0) return Status::Errno(errno, "size layer data");
  return Status::Ok();
}

SpanStore::~SpanStore() {
  FailAll(EIO);
  if (map_) munmap(map_, map_size_);
  for (int fd : {data_fd_, spans_fd_, memory_fd_})
    if (fd >= 0) close(fd);
}

std::atomic<uint8_t>& SpanStore::StateByte(uint64_t span) const {
  static_assert(sizeof(std::atomic<uint8_t>) == 1);
  return *reinterpret_cast<std::atomic<uint8_t>*>(map_ + kSpansHeaderBytes + span);
}

uint64_t SpanStore::EvictGeneration() const {
  return reinterpret_cast<Header*>(map_)->evict_generation.load(std::memory_order_acquire);
}

uint64_t SpanStore::SpanAt(uint64_t offset) const {
  return static_cast<uint64_t>(std::upper_bound(out_.begin(), out_.end(), offset) - out_.begin()) - 1;
}

SpanState SpanStore::state(uint64_t span) const {
  return static_cast<SpanState>(StateByte(span).load(std::memory_order_acquire));
}

bool SpanStore::present(uint64_t span) const {
  return state(span) == kPresent || memory_state_[span].load(std::memory_order_acquire) == kPresent;
}

uint64_t SpanStore::present_count() const {
  uint64_t n = 0;
  for (uint64_t i = 0; i < span_count(); i++) n += present(i);
  return n;
}

uint64_t SpanStore::data_count() const {
  if (data_fd_ < 0) return 0;
  uint64_t n = 0;
  for (uint64_t i = 0; i < span_count(); i++) n += state(i) == kPresent;
  return n;
}

uint64_t SpanStore::present_bytes() const {
  uint64_t n = 0;
  for (uint64_t i = 0; i < span_count(); i++) n += present(i) ? span_size(i) : 0;
  return n;
}

Status SpanStore::Read(uint64_t offset, size_t size, uint8_t* buf, bool* ready, SpanRange* missing) {
  *ready = false;
  if (size == 0) {
    *ready = true;
    return Status::Ok();
  }
  if (offset >= size_bytes() || size > size_bytes() - offset)
    return Status::Corrupt("read of [" + std::to_string(offset) + ", +" + std::to_string(size) +
                           ") past the layer's end at " + std::to_string(size_bytes()));
  const uint64_t first = SpanAt(offset), last = SpanAt(offset + size - 1);
  // A span may be evicted while it is read: its state is cleared, then the generation raised, then its bytes go. Who saw
  // the state before it was cleared therefore sees another generation after the read if any byte can have come from a
  // hole. A few tries, then it counts as missing: the parked request is answered after the next fetch.
  for (int tries = 0; tries < 4; tries++) {
    const uint64_t disk_gen = EvictGeneration(), mem_gen = memory_generation_.load(std::memory_order_acquire);
    bool all = true;
    for (uint64_t i = first; i <= last && all; i++) all = present(i);
    if (!all) break;
    uint64_t at = offset;
    const uint64_t end = offset + size;
    uint64_t i = first;
    while (at < end) {
      // Neighbouring spans of the same file are one pread.
      const int fd = FdOf(i);
      if (fd < 0) break;  // evicted since
      uint64_t stop = std::min(end, out_[i + 1]);
      while (stop < end && FdOf(i + 1) == fd) stop = std::min(end, out_[++i + 1]);
      if (Status s = FullPread(fd, buf + (at - offset), stop - at, at, "layer data"); !s.ok()) return s;
      at = stop;
      i++;
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (at == end && EvictGeneration() == disk_gen && memory_generation_.load(std::memory_order_acquire) == mem_gen) {
      NoteUse({first, last});
      *ready = true;
      return Status::Ok();
    }
  }
  *missing = {first, last};
  return Status::Ok();
}

int SpanStore::FdOf(uint64_t span) const {
  if (state(span) == kPresent) return data_fd_;
  return memory_state_[span].load(std::memory_order_acquire) == kPresent ? memory_fd_ : -1;
}

bool SpanStore::Park(SpanRange range, std::shared_ptr<Waiter> waiter) {
  std::lock_guard<std::mutex> g(mutex_);
  bool all = true;
  for (uint64_t i = range.first; i <= range.last && all; i++) all = present(i);
  if (all) return false;
  parked_.push_back({range, std::move(waiter)});
  return true;
}

bool SpanStore::Unpark(const Waiter* waiter) {
  std::lock_guard<std::mutex> g(mutex_);
  auto it = std::find_if(parked_.begin(), parked_.end(), [&](const Parked& p) { return p.waiter.get() == waiter; });
  if (it == parked_.end()) return false;
  parked_.erase(it);
  return true;
}

bool SpanStore::Wake(SpanRange range) {
  if (range.first > range.last || range.last >= span_count()) return false;
  std::vector<std::shared_ptr<Waiter>> ready;
  bool all = true;
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (uint64_t i = range.first; i <= range.last && all; i++) all = present(i);
    TakeReady(range, &ready);
  }
  for (auto& w : ready) w->OnReady();
  return all;
}

void SpanStore::TakeReady(SpanRange range, std::vector<std::shared_ptr<Waiter>>* out) {
  for (size_t k = 0; k < parked_.size();) {
    const SpanRange r = parked_[k].range;
    bool all = r.first <= range.last && range.first <= r.last;
    for (uint64_t i = r.first; i <= r.last && all; i++) all = present(i);
    if (!all) {
      k++;
      continue;
    }
    out->push_back(std::move(parked_[k].waiter));
    parked_[k] = std::move(parked_.back());
    parked_.pop_back();
  }
}

void SpanStore::Fail(SpanRange range, int err) {
  std::vector<std::shared_ptr<Waiter>> gone;
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (size_t k = 0; k < parked_.size();) {
      if (parked_[k].range.last < range.first || parked_[k].range.first > range.last) {
        k++;
        continue;
      }
      gone.push_back(std::move(parked_[k].waiter));
      parked_[k] = std::move(parked_.back());
      parked_.pop_back();
    }
  }
  for (auto& w : gone) w->OnError(err);
}

void SpanStore::FailAll(int err) { Fail({0, UINT64_MAX}, err); }

void SpanStore::SettleSuspect(uint64_t span, bool good) {
  std::vector<std::shared_ptr<Waiter>> ready;
  {
    std::lock_guard<std::mutex> g(mutex_);
    uint8_t was = kSuspect;
    StateByte(span).compare_exchange_strong(was, good ? kPresent : kAbsent);
    if (good) TakeReady({span, span}, &ready);
  }
  for (auto& w : ready) w->OnReady();
}

void SpanStore::TrustSuspect() {
  for (uint64_t i = 0; i < span_count(); i++)
    if (state(i) == kSuspect) SettleSuspect(i, true);
}

Status SpanStore::ReadRaw(uint64_t span, uint64_t offset, uint8_t* buf, size_t size) const {
  if (data_fd_ < 0) return Status::Usage("this layer has no data file");
  return FullPread(data_fd_, buf, size, out_[span] + offset, "layer data");
}

Status SpanStore::FlushClean() {
  if (data_fd_ < 0 || spans_fd_ < 0) return Status::Ok();
  // Most of it before the lock is taken: who opens the layer now waits for it.
  if (fdatasync(data_fd_) < 0) return Status::Errno(errno, "flush layer data");
  HeaderLock lock(spans_fd_);
  if (!lock.held()) return Status::Errno(errno, "lock span states");
  // Another process still uses it: the last one says "clean", so this one must not count any more.
  Status s = Status::Ok();
  if (SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, kUseLockByte) == 0) s = MarkClean();
  SetLock(spans_fd_, F_OFD_SETLK, F_UNLCK, kUseLockByte);
  return s;
}

Status SpanStore::MarkClean() {
  // Again: a process that wrote since, and was killed, flushed nothing.
  if (fdatasync(data_fd_) < 0) return Status::Errno(errno, "flush layer data");
  if (msync(map_, map_size_, MS_SYNC) < 0) return Status::Errno(errno, "flush span states");
  reinterpret_cast<Header*>(map_)->flags.fetch_or(kFlagClean);
  if (msync(map_, kSpansHeaderBytes, MS_SYNC) < 0) return Status::Errno(errno, "flush span states");
  return Status::Ok();
}

}  // namespace ocifs::layer
