#include "reads.h"

#include <cstring>

#include "reply.h"

namespace ocifs::fuse {

// One READ that waits. Whoever claims it first answers it: the last missing span, a failure, or an interrupt.
class Reads::ParkedRead : public layer::Waiter, public std::enable_shared_from_this<ParkedRead> {
 public:
  ParkedRead(Reads& reads, std::shared_ptr<void> owner, const ReadRequest& r)
      : reads(reads), owner(std::move(owner)), request(r) {}

  void OnReady() override {
    // Claimed by an interrupt meanwhile: nothing to do. Otherwise it may park again, so the claim is given back there.
    if (claimed.load()) return;
    std::vector<uint8_t> buffer(request.size);
    reads.Serve(request, buffer.data(), shared_from_this());
  }
  void OnError(int err) override {
    if (Claim()) ReplyError(reads.counters_, request.fd, request.unique, err);
    reads.Forget(request.unique);
  }
  bool Claim() { return !claimed.exchange(true); }

  Reads& reads;
  const std::shared_ptr<void> owner;
  const ReadRequest request;
  std::atomic<bool> claimed{false};
  std::shared_ptr<layer::SpanStore> store;  // where it is parked; GUARDED_BY(reads.mutex_)
};

void Reads::Serve(const ReadRequest& r, uint8_t* buffer, std::shared_ptr<ParkedRead> again) {
  while (TryServe(r, buffer, again) == Outcome::kAgain) continue;
}

Reads::Outcome Reads::TryServe(const ReadRequest& r, uint8_t* buffer, std::shared_ptr<ParkedRead>& again) {
  // One a thread, as allocating for each request shows. Nothing below waits or comes back here.
  thread_local std::vector<Piece> pieces;
  pieces.clear();
  if (Status s = files_.MapRead(r.node, r.offset, r.size, &pieces); !s.ok()) {
    FinishError(r, again, s.err);
    return Outcome::kAnswered;
  }
  uint8_t* at = buffer;
  for (const Piece& p : pieces) {
    if (p.kind == Piece::Kind::kZeros) {
      std::memset(at, 0, p.length);
    } else if (p.kind == Piece::Kind::kBytes) {
      std::memcpy(at, p.bytes, p.length);
    } else {
      bool ready = false;
      layer::SpanRange missing;
      if (Status s = files_.devices()[p.device - 1]->Read(p.offset, p.length, at, &ready, &missing); !s.ok()) {
        FinishError(r, again, EIO);
        return Outcome::kAnswered;
      }
      if (!ready) return Park(r, Piece(p), missing, again);
    }
    at += p.length;
  }
  if (again && !again->Claim()) {
    Forget(r.unique);
    return Outcome::kAnswered;
  }
  const size_t length = static_cast<size_t>(at - buffer);
  counters_.read_bytes.fetch_add(length, std::memory_order_relaxed);
  if (again) counters_.waited_bytes.fetch_add(length, std::memory_order_relaxed);
  Reply(counters_, r.fd, r.unique, buffer, length);
  (again ? counters_.wait_time : counters_.hit_time).Add(NowNs() - r.began_ns);
  if (again) Forget(r.unique);
  return Outcome::kAnswered;
}

Reads::Outcome Reads::Park(const ReadRequest& r, const Piece& piece, layer::SpanRange missing,
                           std::shared_ptr<ParkedRead>& again) {
  const auto& store = files_.devices()[piece.device - 1];
  if (!again) again = std::make_shared<ParkedRead>(*this, owner_.lock(), r);
  // Planning may fetch ahead as far as the file goes on from here, but not beyond.
  const uint64_t ahead = files_.ReadAheadBytes(r.node, piece);
  const Miss miss{piece.device, missing, NowNs(), std::max(missing.last, store->SpanAt(piece.offset + ahead - 1))};
  {
    std::lock_guard<std::mutex> g(mutex_);
    again->store = store;
    parked_[r.unique] = again;
  }
  if (again->claimed) {  // interrupted while it was being resumed
    Forget(r.unique);
    return Outcome::kAnswered;
  }
  if (TakeInterrupted(r.unique)) {
    FinishError(r, again, EINTR);
    return Outcome::kAnswered;
  }
  counters_.parked.fetch_add(1, std::memory_order_relaxed);
  if (stopping_) {
    if (!leaving_) {
      FinishError(r, again, EIO);
    } else {
      again->Claim();
      Forget(r.unique);
    }
    return Outcome::kAnswered;
  }
  if (!store->Park(missing, again)) return Outcome::kAgain;  // it came meanwhile
  on_miss_(miss);
  return Outcome::kParked;
}

void Reads::FinishError(const ReadRequest& r, const std::shared_ptr<ParkedRead>& again, int err) {
  if (!again || again->Claim()) ReplyError(counters_, r.fd, r.unique, err);
  if (again) Forget(r.unique);
}

void Reads::Forget(uint64_t unique) {
  std::lock_guard<std::mutex> g(mutex_);
  parked_.erase(unique);
}

bool Reads::TakeInterrupted(uint64_t unique) {
  std::lock_guard<std::mutex> g(mutex_);
  for (auto& u : early_interrupts_)
    if (u == unique) {
      u = 0;
      return true;
    }
  return false;
}

void Reads::Interrupt(uint64_t unique) {
  std::shared_ptr<ParkedRead> read;
  std::shared_ptr<layer::SpanStore> store;
  {
    std::lock_guard<std::mutex> g(mutex_);
    auto it = parked_.find(unique);
    if (it == parked_.end()) {
      // Between being read and being parked, or just answered.
      early_interrupts_[early_next_++ % early_interrupts_.size()] = unique;
      return;
    }
    read = it->second;
    store = read->store;
  }
  // The shared fetch goes on: others may want it, and the reader may come back.
  if (!read->Claim()) return;
  counters_.interrupted.fetch_add(1, std::memory_order_relaxed);
  if (store) store->Unpark(read.get());
  ReplyError(counters_, read->request.fd, unique, EINTR);
  Forget(unique);
}

void Reads::BeginStop(Parked parked) {
  if (parked == Parked::kLeave) leaving_ = true;
  stopping_ = true;
}

void Reads::Finish() {
  std::vector<std::shared_ptr<ParkedRead>> left;
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (auto& [unique, p] : parked_) left.push_back(p);
    parked_.clear();
  }
  for (auto& p : left) {
    if (p->store) p->store->Unpark(p.get());
    if (p->Claim() && !leaving_) ReplyError(counters_, p->request.fd, p->request.unique, EIO);
  }
}

}  // namespace ocifs::fuse
