// Giving spans of `data` back to the disk without waiting for anybody: what a cache with a limit does all the time.
#include <unistd.h>

#include <algorithm>

#include "span_store_private.h"

namespace ocifs::layer {

namespace {
constexpr uint64_t kPage = 4096;

// Counts commits of all stores of this process. What was read since the last commit is as recent as anything can be, so
// readers only copy it; the clock's cache line changes no more often than spans come.
std::atomic<uint32_t> access_clock{1};
}  // namespace

void SpanStore::NoteUse(SpanRange range) {
  const uint32_t now = access_clock.load(std::memory_order_relaxed);
  for (uint64_t i = range.first; i <= range.last; i++)
    if (used_[i].load(std::memory_order_relaxed) != now) used_[i].store(now, std::memory_order_relaxed);
}

void SpanStore::NoteCommit(uint64_t span) {
  used_[span].store(access_clock.fetch_add(1, std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

bool SpanStore::Awaited(uint64_t span) const {
  return std::any_of(parked_.begin(), parked_.end(),
                     [&](const Parked& p) { return p.range.first <= span && span <= p.range.last; });
}

std::vector<SpanUse> SpanStore::LeastRecent(size_t count) {
  std::vector<SpanUse> all;
  std::lock_guard<std::mutex> g(mutex_);
  if (data_fd_ < 0 || Pinned()) return all;
  for (uint64_t i = 0; i < span_count(); i++)
    if (state(i) != kAbsent && !writing_.contains(i) && !Awaited(i))
      all.push_back({i, used_[i].load(std::memory_order_relaxed), span_size(i)});
  const auto older = [](const SpanUse& a, const SpanUse& b) { return a.used != b.used ? a.used < b.used : a.span < b.span; };
  if (all.size() > count) {
    std::nth_element(all.begin(), all.begin() + static_cast<ptrdiff_t>(count), all.end(), older);
    all.resize(count);
  }
  std::sort(all.begin(), all.end(), older);
  return all;
}

bool SpanStore::TryLockSpan(uint64_t span) {
  if (writing_.contains(span) || (evicting_ && evicting_->first <= span && span <= evicting_->last)) return false;
  return spans_fd_ < 0 || SetLock(spans_fd_, F_OFD_SETLK, F_WRLCK, SpanLockByte(span)) == 0;
}

Status SpanStore::TryEvict(const std::vector<uint64_t>& spans, uint64_t* freed) {
  *freed = 0;
  if (data_fd_ < 0) return Status::Ok();
  std::lock_guard<std::mutex> g(mutex_);
  std::vector<uint64_t> taken;
  for (uint64_t i : spans) {
    if (i >= span_count()) return Status::Usage("evict: span number out of range");
    if (Awaited(i) || !TryLockSpan(i)) continue;
    if (state(i) == kAbsent || Pinned()) {
      UnlockSpan(i);
      continue;
    }
    StateByte(i).store(kAbsent, std::memory_order_release);
    taken.push_back(i);
  }
  if (taken.empty()) return Status::Ok();
  // Once for all of them, between the states and the first hole: see Read.
  reinterpret_cast<Header*>(map_)->evict_generation.fetch_add(1);
  std::vector<uint64_t> taken_and_neighbours = taken;
  Status s;
  for (uint64_t i : taken) {
    uint64_t punched = 0;
    if (Status one = PunchSpan(i, &taken_and_neighbours, &punched); !one.ok()) s = one;
    *freed += punched;
  }
  // All at the end: none of them may be written before the last hole is made.
  for (uint64_t i : taken_and_neighbours) UnlockSpan(i);
  return s;
}

Status SpanStore::PunchSpan(uint64_t span, std::vector<uint64_t>* locked, uint64_t* punched) {
  // A page at the edge holds bytes of neighbours too. It goes when none of those is there, nor being written anywhere.
  uint64_t begin = out_[span] / kPage * kPage, end = (out_[span + 1] + kPage - 1) / kPage * kPage;
  const auto unused = [&](uint64_t i) {
    if (!TryLockSpan(i)) return false;
    if (state(i) == kAbsent) {
      locked->push_back(i);
      return true;
    }
    UnlockSpan(i);
    return false;
  };
  for (uint64_t i = span; i-- > 0 && out_[i + 1] > begin;)
    if (!unused(i)) begin += kPage;
  for (uint64_t i = span + 1; i < span_count() && out_[i] < end; i++)
    if (!unused(i)) end -= kPage;
  if (end <= begin) return Status::Ok();
  if (fallocate(data_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
                static_cast<off_t>(end - begin)) < 0)
    return Status::Errno(errno, "punch hole in layer data");
  *punched = end - begin;
  return Status::Ok();
}

}  // namespace ocifs::layer
