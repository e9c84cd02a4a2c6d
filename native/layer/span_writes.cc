// Bytes into and out of the span store: writing a span to `data` or to memory, and evicting.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "span_store_private.h"

namespace ocifs::layer {

namespace {
constexpr uint64_t kPage = 4096;

Status Evicted(uint64_t span) { return Status::Errno(EBUSY, "span " + std::to_string(span) + " was evicted while it was written"); }

Status FullPwrite(int fd, const uint8_t* buf, size_t size, uint64_t offset, const char* what) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = pwrite(fd, buf + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::Errno(errno, std::string("write ") + what);
    done += static_cast<size_t>(n);
  }
  return Status::Ok();
}
}  // namespace

Status SpanStore::EnsureMemory() {
  if (memory_fd_ >= 0) return Status::Ok();
  int fd = memfd_create("ocifs-spans", MFD_CLOEXEC);
  if (fd < 0) return Status::Errno(errno, "create memory file");
  if (ftruncate(fd, static_cast<off_t>(size_bytes())) < 0) {
    int e = errno;
    close(fd);
    return Status::Errno(e, "size memory file");
  }
  memory_fd_ = fd;
  return Status::Ok();
}

void SpanStore::PunchMemory(uint64_t span) {
  // Pages at the edges are shared with neighbours; they go with the last of them.
  const auto used = [&](uint64_t i) { return memory_state_[i].load(std::memory_order_relaxed) == kPresent || writing_.contains(i); };
  uint64_t begin = out_[span] / kPage * kPage, end = (out_[span + 1] + kPage - 1) / kPage * kPage;
  for (uint64_t i = span; i-- > 0 && out_[i + 1] > begin;)
    if (used(i)) begin += kPage;
  for (uint64_t i = span + 1; i < span_count() && out_[i] < end; i++)
    if (used(i)) end -= kPage;
  if (end > begin)
    (void)fallocate(memory_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
                    static_cast<off_t>(end - begin));
}

void SpanStore::DropFromMemory(uint64_t span) {
  if (memory_state_[span].exchange(kAbsent) != kPresent) return;
  memory_generation_.fetch_add(1);
  memory_used_ -= span_size(span);
  PunchMemory(span);
}

Status SpanStore::ReserveMemory(uint64_t span) {
  const uint64_t size = span_size(span);
  if (size > memory_limit_)
    return Status::Limit("span " + std::to_string(span) + " of " + std::to_string(size) +
                         " bytes is larger than the memory that serves without a disk cache");
  if (Status s = EnsureMemory(); !s.ok()) return s;
  while (!memory_order_.empty() && memory_used_ + size > memory_limit_) {
    const uint64_t old = memory_order_.front();
    memory_order_.pop_front();
    DropFromMemory(old);
  }
  // What is left is being written, and will be done soon.
  if (memory_used_ + size > memory_limit_) return Status::Errno(EBUSY, "memory that serves without a disk cache");
  memory_used_ += size;
  return Status::Ok();
}

void SpanStore::UnlockSpan(uint64_t span) {
  if (spans_fd_ >= 0) SetLock(spans_fd_, F_OFD_SETLK, F_UNLCK, SpanLockByte(span));
}

Status SpanStore::BeginSpan(uint64_t span, Target* target, bool only_memory) {
  std::lock_guard<std::mutex> g(mutex_);
  if (writing_.contains(span) || (evicting_ && evicting_->first <= span && span <= evicting_->last))
    return Status::Errno(EBUSY, "span " + std::to_string(span));
  *target = disk_ok() && !only_memory ? Target::kData : Target::kMemory;
  if (*target == Target::kData && spans_fd_ >= 0 &&
      SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, SpanLockByte(span)) < 0) {
    if (errno != EAGAIN && errno != EACCES) return Status::Errno(errno, "lock span states");
    // Another process writes or evicts it: its bytes must not be touched, nor can it be waited for, it may be stopped.
    *target = Target::kMemory;
  }
  // Only now, with the lock: nobody else can make it present between this look and the first byte written.
  if (present(span)) {
    if (*target == Target::kData) UnlockSpan(span);
    *target = Target::kNone;
    return Status::Ok();
  }
  if (*target == Target::kData && Lent()) {
    UnlockSpan(span);
    *target = Target::kMemory;
  }
  if (*target == Target::kMemory)
    if (Status s = ReserveMemory(span); !s.ok()) return s;
  writing_.emplace(span, Writing{});
  return Status::Ok();
}

Status SpanStore::WriteSpan(Target target, uint64_t span, uint64_t offset, const uint8_t* data, size_t size) {
  if (span >= span_count() || offset > span_size(span) || size > span_size(span) - offset)
    return Status::Corrupt("span " + std::to_string(span) + ": more bytes than its table entry says");
  {
    std::lock_guard<std::mutex> g(mutex_);
    if (const auto it = writing_.find(span); it == writing_.end() || it->second.evicted) return Evicted(span);
  }
  return FullPwrite(target == Target::kData ? data_fd_ : memory_fd_, data, size, out_[span] + offset,
                    target == Target::kData ? "layer data" : "memory file");
}

void SpanStore::EndWriting(Target target, uint64_t span) {
  writing_.erase(span);
  if (target == Target::kData) UnlockSpan(span);
  written_.notify_all();
}

Status SpanStore::CommitSpan(Target target, uint64_t span) {
  std::vector<std::shared_ptr<Waiter>> ready;
  {
    std::lock_guard<std::mutex> g(mutex_);
    const auto it = writing_.find(span);
    if (it == writing_.end() || it->second.evicted) {
      Discard(target, span);
      return Evicted(span);
    }
    // The state before the lock is let go: the next writer must see that there is nothing left to write.
    if (target == Target::kData) {
      StateByte(span).store(kPresent, std::memory_order_release);
    } else {
      memory_order_.push_back(span);
      memory_state_[span].store(kPresent, std::memory_order_release);
    }
    NoteCommit(span);
    EndWriting(target, span);
    TakeReady({span, span}, &ready);
  }
  for (auto& w : ready) w->OnReady();
  return Status::Ok();
}

void SpanStore::Discard(Target target, uint64_t span) {
  EndWriting(target, span);
  if (target != Target::kMemory) return;  // bytes without their state byte are not there
  memory_used_ -= span_size(span);
  PunchMemory(span);
}

void SpanStore::AbortSpan(Target target, uint64_t span) {
  std::lock_guard<std::mutex> g(mutex_);
  Discard(target, span);
}

void SpanStore::ForgetMemory() {
  std::lock_guard<std::mutex> g(mutex_);
  for (const uint64_t span : memory_order_) DropFromMemory(span);
  memory_order_.clear();
}

Status SpanStore::Adopt(SpanRange range, uint64_t* adopted) {
  *adopted = 0;
  if (range.first > range.last || range.last >= span_count()) return Status::Usage("adopt: span range out of range");
  if (data_fd_ < 0 || !disk_ok()) return Status::Usage("adopt: this layer has no data file");
  std::vector<std::shared_ptr<Waiter>> ready;
  Status s;
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (uint64_t i = range.first; i <= range.last && s.ok(); i++) {
      if (writing_.contains(i) || (evicting_ && evicting_->first <= i && i <= evicting_->last)) continue;
      if (spans_fd_ >= 0 && SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, SpanLockByte(i)) < 0) {
        if (errno != EAGAIN && errno != EACCES) s = Status::Errno(errno, "lock span states");
        continue;
      }
      if (state(i) != kPresent) {
        StateByte(i).store(kPresent, std::memory_order_release);
        ++*adopted;
      }
      UnlockSpan(i);
    }
    TakeReady(range, &ready);
  }
  for (auto& w : ready) w->OnReady();
  return s;
}

Status SpanStore::Evict(SpanRange range) {
  if (range.first > range.last || range.last >= span_count()) return Status::Usage("evict: span range out of range");
  std::unique_lock<std::mutex> g(mutex_);
  written_.wait(g, [&] { return !evicting_; });
  // Writers of this process stop at their next piece, and no new one begins; those of others are waited for.
  evicting_ = range;
  for (auto& [span, writing] : writing_) writing.evicted |= range.first <= span && span <= range.last;
  written_.wait(g, [&] { return std::none_of(writing_.begin(), writing_.end(), [](const auto& w) { return w.second.evicted; }); });
  const uint64_t count = range.last - range.first + 1;
  g.unlock();
  const int locked = spans_fd_ < 0 ? 0 : SetLock(spans_fd_, F_OFD_SETLKW, F_WRLCK, SpanLockByte(range.first), count);
  const int lock_errno = errno;
  g.lock();
  Status s = locked < 0 ? Status::Errno(lock_errno, "lock span states") : Clear(range);
  if (spans_fd_ >= 0 && locked == 0) SetLock(spans_fd_, F_OFD_SETLK, F_UNLCK, SpanLockByte(range.first), count);
  evicting_.reset();
  written_.notify_all();
  return s;
}

Status SpanStore::Clear(SpanRange range) {
  for (uint64_t i = range.first; i <= range.last; i++) StateByte(i).store(kAbsent, std::memory_order_release);
  reinterpret_cast<Header*>(map_)->evict_generation.fetch_add(1);
  std::erase_if(memory_order_, [&](uint64_t i) { return range.first <= i && i <= range.last; });
  for (uint64_t i = range.first; i <= range.last; i++) DropFromMemory(i);
  // The first and last page may hold bytes of neighbours that stay.
  const uint64_t begin = range.first == 0 ? 0 : (out_[range.first] + kPage - 1) / kPage * kPage;
  const uint64_t end = range.last + 1 == span_count() ? size_bytes() : out_[range.last + 1] / kPage * kPage;
  // What the kernel has is not punched; without their states its bytes are not used here.
  if (end <= begin || data_fd_ < 0 || Pinned()) return Status::Ok();
  if (fallocate(data_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
                static_cast<off_t>(end - begin)) < 0)
    return Status::Errno(errno, "punch hole in layer data");
  return Status::Ok();
}

}  // namespace ocifs::layer
