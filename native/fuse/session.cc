#include "session.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "protocol.h"

namespace ocifs::fuse {

namespace {
// The tree never changes while it is mounted: entries and attributes, also negative ones, may be kept for good.
constexpr uint64_t kForeverSeconds = 0x7fffffff;
constexpr uint64_t kNodeidForNidZero = 1ull << 62;
constexpr int kWakeSignalOffset = 3;  // SIGRTMIN + 3: neither glibc nor Node uses it

void OnWakeSignal(int) {}

// Wakes a thread out of read(2) without ending it.
int WakeSignal() {
  static const int number = [] {
    int n = SIGRTMIN + kWakeSignalOffset;
    struct sigaction a {};
    a.sa_handler = OnWakeSignal;
    sigaction(n, &a, nullptr);
    return n;
  }();
  return number;
}

uint32_t ModeOfDirentType(uint8_t type) {
  static constexpr uint32_t modes[] = {0, S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFLNK};
  return type < sizeof modes / sizeof *modes ? modes[type] : 0;
}

// dev_t as the FUSE protocol carries it (new_encode_dev in 32 bits).
uint32_t EncodeDev(uint32_t major, uint32_t minor) {
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

// From a list of NUL-terminated names.
void RemoveTrusted(std::string* names) {
  static constexpr std::string_view kPrefix = "trusted.";
  std::string kept;
  for (size_t at = 0; at < names->size();) {
    const size_t end = names->find('\0', at) + 1;
    if (names->compare(at, kPrefix.size(), kPrefix) != 0) kept.append(*names, at, end - at);
    at = end;
  }
  names->swap(kept);
}

Status FillDirentSafely(const erofs::Dirent& d) {
  return d.name.empty() || d.name.size() > NAME_MAX ? Status::Corrupt("directory entry name") : Status::Ok();
}
}  // namespace

struct Session::Request {
  const fuse_in_header* head;
  const uint8_t* body;
  size_t size;

  // The fixed argument struct, or null when the kernel sent less than it.
  template <class T>
  const T* As() const {
    return size >= sizeof(T) ? reinterpret_cast<const T*>(body) : nullptr;
  }
  // A NUL-terminated name that starts `skip` bytes into the body; empty when there is none.
  std::string_view Name(size_t skip = 0) const {
    if (size <= skip) return {};
    const char* p = reinterpret_cast<const char*>(body) + skip;
    return {p, strnlen(p, size - skip)};
  }
};

struct Session::Worker {
  int fd = -1;
  std::thread thread;
  std::atomic<bool> done{false};
  std::vector<uint8_t> in, out;
};

// One READ that waits. Whoever claims it first answers it: the last missing span, a failure, or an interrupt.
class Session::ParkedRead : public layer::Waiter, public std::enable_shared_from_this<ParkedRead> {
 public:
  ParkedRead(std::shared_ptr<Session> s, int fd, uint64_t unique, uint64_t nid, uint64_t offset, uint32_t size)
      : session(std::move(s)), fd(fd), unique(unique), nid(nid), offset(offset), size(size) {}

  void OnReady() override {
    // Claimed by an interrupt meanwhile: nothing to do. Otherwise it may park again, so the claim is given back there.
    if (claimed.load()) return;
    std::vector<uint8_t> buffer(sizeof(fuse_out_header) + size);
    session->ServeRead(fd, unique, nid, offset, size, buffer.data(), shared_from_this());
  }
  void OnError(int err) override {
    if (Claim()) session->ReplyError(fd, unique, err);
    session->Forget(unique);
  }
  bool Claim() { return !claimed.exchange(true); }

  const std::shared_ptr<Session> session;
  const int fd;
  const uint64_t unique, nid, offset;
  const uint32_t size;
  std::atomic<bool> claimed{false};
  std::shared_ptr<layer::SpanStore> store;  // where it is parked; GUARDED_BY(session->mutex_)
};

Session::Session(Options o) : o_(std::move(o)) {
  uint64_t bytes = o_.image->size_bytes();
  for (const auto& d : o_.devices) bytes += d->size_bytes();
  total_blocks_ = (bytes + 4095) / 4096;
}

Status Session::Start(Options options, std::shared_ptr<Session>* out) {
  if (options.devices.size() != options.image->devices().size())
    return Status::Mismatch("the tarindex names " + std::to_string(options.image->devices().size()) + " layers, " +
                            std::to_string(options.devices.size()) + " were given");
  std::shared_ptr<Session> s(new Session(std::move(options)));
  if (Status st = s->StartWorkers(); !st.ok()) return st;
  *out = std::move(s);
  return Status::Ok();
}

Status Session::StartWorkers() {
  WakeSignal();
  const unsigned count = std::clamp(o_.workers, 1u, 64u);
  for (unsigned i = 0; i < count; i++) {
    auto w = std::make_unique<Worker>();
    w->fd = o_.fd;
    if (i > 0) {
      // A clone has its own queue of requests being processed, so workers do not contend for one lock. Where /dev/fuse
      // cannot be opened (unprivileged), workers share the fd, which the kernel allows as well.
      int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
      uint32_t master = static_cast<uint32_t>(o_.fd);
      if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
        close(clone);
        clone = -1;
      }
      if (clone >= 0) w->fd = clone;
    }
    w->in.resize(kRequestBytes);
    w->out.resize(sizeof(fuse_out_header) + kMaxReadBytes);
    workers_.push_back(std::move(w));
  }
  running_ = count;
  for (auto& w : workers_) w->thread = std::thread([this, p = w.get()] { Run(*p); });
  return Status::Ok();
}

Session::~Session() {
  Stop();
  for (auto& w : workers_)
    if (w->fd != o_.fd) close(w->fd);
  close(o_.fd);
}

void Session::Stop(Parked parked) {
  if (parked == Parked::kLeave) leaving_ = true;
  stopping_ = true;
  for (auto& w : workers_) {
    if (!w->thread.joinable()) continue;
    // The signal may arrive just before read(2) is entered, so it is repeated until the thread is out.
    while (!w->done) {
      pthread_kill(w->thread.native_handle(), WakeSignal());
      usleep(1000);
    }
    w->thread.join();
  }
  std::vector<std::shared_ptr<ParkedRead>> left;
  {
    std::lock_guard<std::mutex> g(mutex_);
    for (auto& [unique, p] : parked_) left.push_back(p);
    parked_.clear();
  }
  for (auto& p : left) {
    if (p->store) p->store->Unpark(p.get());
    if (p->Claim() && !leaving_) ReplyError(p->fd, p->unique, EIO);
  }
}

Status Session::Resend() {
  fuse_out_header h{};
  h.len = sizeof h;
  h.error = kNotifyResend;  // a notification: unique 0, its code where the error stands
  if (write(o_.fd, &h, sizeof h) < 0) return Status::Errno(errno, "ask the kernel to send requests again");
  return Status::Ok();
}

void Session::Run(Worker& w) {
  pthread_setname_np(pthread_self(), "ocifs-fuse");
  // Every other signal is for Node's main thread.
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, WakeSignal());
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  int err = 0;
  while (!stopping_) {
    ssize_t n = read(w.fd, w.in.data(), w.in.size());
    if (n < 0) {
      // ENOENT: the request was taken back between waking us and being read.
      if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
      err = errno == ENODEV ? 0 : errno;  // ENODEV: unmounted
      break;
    }
    const auto* head = reinterpret_cast<const fuse_in_header*>(w.in.data());
    if (static_cast<size_t>(n) < sizeof *head || head->len != static_cast<size_t>(n)) continue;
    counters_.requests.fetch_add(1, std::memory_order_relaxed);
    Dispatch(w, {head, w.in.data() + sizeof *head, static_cast<size_t>(n) - sizeof *head});
  }
  if (err != 0) end_err_ = err;
  const bool last = --running_ == 0;
  if (last && o_.on_end) o_.on_end(end_err_);
  w.done = true;
}

uint64_t Session::ToNid(uint64_t nodeid) const {
  // A bijection: the root is nodeid 1, an inode that has nid 1 takes the root's number, nid 0 (no valid nodeid) a free one.
  if (nodeid == FUSE_ROOT_ID) return o_.image->root_nid();
  if (nodeid == kNodeidForNidZero) return 0;
  if (nodeid == o_.image->root_nid()) return FUSE_ROOT_ID;
  return nodeid;
}

uint64_t Session::ToNodeid(uint64_t nid) const {
  if (nid == o_.image->root_nid()) return FUSE_ROOT_ID;
  if (nid == 0) return kNodeidForNidZero;
  if (nid == FUSE_ROOT_ID) return o_.image->root_nid();
  return nid;
}

// The C library takes a directory entry of inode 0 for a deleted one and hides it.
uint64_t Session::ToIno(uint64_t nid) const { return nid == 0 ? kNodeidForNidZero : nid; }

void Session::ReplyError(int fd, uint64_t unique, int err) {
  fuse_out_header h{};
  h.len = sizeof h;
  h.error = -err;
  h.unique = unique;
  // Expected answers of a file system are not errors of ours.
  if (err == EIO) counters_.errors.fetch_add(1, std::memory_order_relaxed);
  // ENOENT: the request was interrupted and given up; ENODEV: unmounted. Neither leaves anything to do.
  (void)!write(fd, &h, sizeof h);
}

void Session::Reply(int fd, uint64_t unique, const void* data, size_t size) {
  fuse_out_header h{};
  h.len = static_cast<uint32_t>(sizeof h + size);
  h.unique = unique;
  iovec v[2] = {{&h, sizeof h}, {const_cast<void*>(data), size}};
  if (writev(fd, v, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV) ReplyError(fd, unique, EIO);
}

void Session::Dispatch(Worker& w, const Request& r) {
  switch (r.head->opcode) {
    case FUSE_INIT: return DoInit(w, r);
    case FUSE_LOOKUP: return DoLookup(w, r);
    case FUSE_GETATTR: return DoGetattr(w, r);
    case FUSE_READLINK: return DoReadlink(w, r);
    case FUSE_READ: return DoRead(w, r);
    case FUSE_READDIR: return DoReaddir(w, r, false);
    case FUSE_READDIRPLUS: return DoReaddir(w, r, true);
    case FUSE_STATFS: return DoStatfs(w, r);
    case FUSE_GETXATTR: return DoGetxattr(w, r);
    case FUSE_LISTXATTR: return DoListxattr(w, r);
    case FUSE_INTERRUPT: return DoInterrupt(w, r);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET: return;  // no answer by protocol; nothing to forget
    case FUSE_DESTROY: return Reply(w.fd, r.head->unique, nullptr, 0);
    // ENOSYS once, and the kernel does these by itself: opening needs no state of ours, permissions are checked by
    // default_permissions, holes are found by its generic code.
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_ACCESS:
    case FUSE_LSEEK:
    case FUSE_POLL:
    case FUSE_BMAP:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return ReplyError(w.fd, r.head->unique, ENOSYS);
    case FUSE_IOCTL: return ReplyError(w.fd, r.head->unique, ENOTTY);
    case FUSE_SETATTR:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_WRITE:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_CREATE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE: return ReplyError(w.fd, r.head->unique, EROFS);
    default: return ReplyError(w.fd, r.head->unique, ENOSYS);
  }
}

void Session::DoInit(Worker& w, const Request& r) {
  const auto* in = reinterpret_cast<const fuse_init_in*>(r.body);
  if (r.size < 16) return ReplyError(w.fd, r.head->unique, EINVAL);
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = kMinorVersion;
  if (in->major > FUSE_KERNEL_VERSION) return Reply(w.fd, r.head->unique, &out, sizeof out);  // it will ask again in our version
  if (in->major < FUSE_KERNEL_VERSION || in->minor < 31) return ReplyError(w.fd, r.head->unique, EPROTO);
  uint64_t offered = in->flags;
  if ((in->flags & FUSE_INIT_EXT) && r.size >= sizeof(fuse_init_in)) offered |= static_cast<uint64_t>(in->flags2) << 32;
  const uint64_t wanted = FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                          FUSE_CACHE_SYMLINKS | FUSE_MAX_PAGES | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
                          FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_POSIX_ACL | FUSE_INIT_EXT | kHasResend;
  const uint64_t flags = offered & wanted;
  out.max_readahead = std::max<uint32_t>(in->max_readahead, kMaxReadBytes);
  out.flags = static_cast<uint32_t>(flags);
  out.flags2 = static_cast<uint32_t>(flags >> 32);
  out.max_background = 64;
  out.congestion_threshold = 48;
  out.max_write = 4096;
  out.time_gran = 1;
  out.max_pages = kMaxPages;
  Reply(w.fd, r.head->unique, &out, sizeof out);
}

Status Session::FillAttr(uint64_t nid, void* p) const {
  erofs::Attr a;
  if (Status s = o_.image->GetAttr(nid, &a); !s.ok()) return s;
  auto* out = static_cast<fuse_attr*>(p);
  std::memset(out, 0, sizeof *out);
  out->ino = ToIno(nid);
  out->size = a.size;
  // Not the blocks that are cached: programs such as cp take st_blocks < size for holes and skip them.
  out->blocks = (a.size + 511) / 512;
  out->atime = out->mtime = out->ctime = static_cast<uint64_t>(a.mtime_sec);
  out->atimensec = out->mtimensec = out->ctimensec = a.mtime_nsec;
  out->mode = a.mode;
  out->nlink = a.nlink;
  out->uid = a.uid;
  out->gid = a.gid;
  out->rdev = EncodeDev(a.rdev_major, a.rdev_minor);
  out->blksize = 4096;
  return Status::Ok();
}

void Session::DoLookup(Worker& w, const Request& r) {
  const std::string_view name = r.Name();
  if (name.empty()) return ReplyError(w.fd, r.head->unique, EINVAL);
  if (name.size() > NAME_MAX) return ReplyError(w.fd, r.head->unique, ENAMETOOLONG);
  fuse_entry_out out{};
  out.entry_valid = out.attr_valid = kForeverSeconds;
  const uint64_t dir = ToNid(r.head->nodeid);
  uint64_t nid = dir;
  // "." and ".." come from open_by_handle_at(2). A handle may name anything: what is no inode is ESTALE there.
  const bool by_handle = name == ".";
  if (!by_handle) {
    erofs::Dirent d;
    Status s = o_.image->Lookup(dir, name, &d);
    // nodeid 0 with a validity is a negative entry the kernel keeps.
    if (s.err == ENOENT) return Reply(w.fd, r.head->unique, &out, sizeof out);
    if (!s.ok()) return ReplyError(w.fd, r.head->unique, s.err);
    nid = d.nid;
  }
  if (Status s = FillAttr(nid, &out.attr); !s.ok()) return ReplyError(w.fd, r.head->unique, by_handle ? ESTALE : s.err);
  out.nodeid = ToNodeid(nid);
  Reply(w.fd, r.head->unique, &out, sizeof out);
}

void Session::DoGetattr(Worker& w, const Request& r) {
  fuse_attr_out out{};
  out.attr_valid = kForeverSeconds;
  if (Status s = FillAttr(ToNid(r.head->nodeid), &out.attr); !s.ok()) return ReplyError(w.fd, r.head->unique, s.err);
  Reply(w.fd, r.head->unique, &out, sizeof out);
}

void Session::DoReadlink(Worker& w, const Request& r) {
  std::string target;
  if (Status s = o_.image->ReadLink(ToNid(r.head->nodeid), &target); !s.ok())
    return ReplyError(w.fd, r.head->unique, s.err);
  Reply(w.fd, r.head->unique, target.data(), target.size());
}

void Session::DoRead(Worker& w, const Request& r) {
  const auto* in = r.As<fuse_read_in>();
  if (!in) return ReplyError(w.fd, r.head->unique, EINVAL);
  counters_.reads.fetch_add(1, std::memory_order_relaxed);
  const uint32_t size = std::min<uint32_t>(in->size, kMaxReadBytes);
  ServeRead(w.fd, r.head->unique, ToNid(r.head->nodeid), in->offset, size, w.out.data(), nullptr);
}

void Session::ServeRead(int fd, uint64_t unique, uint64_t nid, uint64_t offset, uint32_t size, uint8_t* buffer,
                        std::shared_ptr<ParkedRead> again) {
  const auto finish_error = [&](int err) {
    if (again) {
      if (again->Claim()) ReplyError(fd, unique, err);
      Forget(unique);
    } else {
      ReplyError(fd, unique, err);
    }
  };
  std::vector<erofs::Extent> extents;
  for (;;) {
    extents.clear();
    if (Status s = o_.image->MapRange(nid, offset, size, &extents); !s.ok()) return finish_error(s.err);
    uint8_t* at = buffer;
    bool parked = false, retry = false;
    for (const auto& e : extents) {
      if (e.kind == erofs::ExtentKind::kHole) {
        std::memset(at, 0, e.length);
      } else if (e.kind == erofs::ExtentKind::kIndex) {
        std::memcpy(at, o_.image->data() + e.offset, e.length);
      } else {
        auto& store = o_.devices[e.device - 1];
        bool ready = false;
        layer::SpanRange missing;
        if (Status s = store->Read(e.offset, e.length, at, &ready, &missing); !s.ok()) return finish_error(EIO);
        if (!ready) {
          if (!again) again = std::make_shared<ParkedRead>(shared_from_this(), fd, unique, nid, offset, size);
          Miss miss{e.device, missing, missing.last};
          // How far the file goes on from here: planning may fetch ahead to it, but not beyond.
          erofs::Attr attr;
          if (o_.image->GetAttr(nid, &attr).ok() && attr.size > e.file_offset) {
            const uint64_t rest = std::min(attr.size - e.file_offset, store->size_bytes() - e.offset);
            miss.file_end_span = store->SpanAt(e.offset + rest - 1);
          }
          {
            std::lock_guard<std::mutex> g(mutex_);
            again->store = store;
            parked_[unique] = again;
          }
          if (again->claimed) return Forget(unique);  // interrupted while it was being resumed
          if (TakeInterrupted(unique)) return finish_error(EINTR);
          counters_.parked.fetch_add(1, std::memory_order_relaxed);
          if (stopping_) {
            if (!leaving_) return finish_error(EIO);
            again->Claim();
            return Forget(unique);
          }
          if (!store->Park(missing, again)) {
            retry = true;  // it came meanwhile
            break;
          }
          o_.on_miss(miss);
          parked = true;
          break;
        }
      }
      at += e.length;
    }
    if (parked) return;
    if (retry) continue;
    if (again && !again->Claim()) return Forget(unique);
    const size_t length = static_cast<size_t>(at - buffer);
    counters_.read_bytes.fetch_add(length, std::memory_order_relaxed);
    Reply(fd, unique, buffer, length);
    if (again) Forget(unique);
    return;
  }
}

void Session::Forget(uint64_t unique) {
  std::lock_guard<std::mutex> g(mutex_);
  parked_.erase(unique);
}

bool Session::TakeInterrupted(uint64_t unique) {
  std::lock_guard<std::mutex> g(mutex_);
  for (auto& u : early_interrupts_)
    if (u == unique) {
      u = 0;
      return true;
    }
  return false;
}

void Session::DoInterrupt(Worker&, const Request& r) {
  const auto* in = r.As<fuse_interrupt_in>();
  if (!in) return;
  std::shared_ptr<ParkedRead> read;
  {
    std::lock_guard<std::mutex> g(mutex_);
    auto it = parked_.find(in->unique);
    if (it == parked_.end()) {
      // Between being read and being parked, or just answered.
      early_interrupts_[early_next_++ % early_interrupts_.size()] = in->unique;
      return;
    }
    read = it->second;
  }
  // The shared fetch goes on: others may want it, and the reader may come back.
  if (!read->Claim()) return;
  counters_.interrupted.fetch_add(1, std::memory_order_relaxed);
  if (read->store) read->store->Unpark(read.get());
  ReplyError(read->fd, read->unique, EINTR);
  Forget(in->unique);
}

void Session::DoReaddir(Worker& w, const Request& r, bool plus) {
  const auto* in = r.As<fuse_read_in>();
  if (!in) return ReplyError(w.fd, r.head->unique, EINVAL);
  const size_t limit = std::min<size_t>(in->size, kMaxReadBytes);
  uint8_t* const out = w.out.data();
  size_t used = 0;
  Status bad = Status::Ok();
  Status s = o_.image->ReadDir(ToNid(r.head->nodeid), in->offset, [&](const erofs::Dirent& d, uint64_t next) {
    if (bad = FillDirentSafely(d); !bad.ok()) return false;
    const size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    const size_t entry = (head + d.name.size() + 7) & ~size_t{7};
    if (used + entry > limit) return false;
    std::memset(out + used, 0, entry);
    fuse_dirent* dirent;
    if (plus) {
      auto* p = reinterpret_cast<fuse_direntplus*>(out + used);
      // "." and ".." are not entries the kernel links; nodeid 0 says so.
      if (d.name != "." && d.name != "..") {
        if (bad = FillAttr(d.nid, &p->entry_out.attr); !bad.ok()) return false;
        p->entry_out.nodeid = ToNodeid(d.nid);
        p->entry_out.entry_valid = p->entry_out.attr_valid = kForeverSeconds;
      }
      dirent = &p->dirent;
    } else {
      dirent = reinterpret_cast<fuse_dirent*>(out + used);
    }
    dirent->ino = ToIno(d.nid);
    dirent->off = next;
    dirent->namelen = static_cast<uint32_t>(d.name.size());
    dirent->type = ModeOfDirentType(d.type) >> 12;
    std::memcpy(dirent->name, d.name.data(), d.name.size());
    used += entry;
    return true;
  });
  // What was collected before a bad entry is still true; the next call meets the error at its start.
  if (used == 0 && (!s.ok() || !bad.ok())) return ReplyError(w.fd, r.head->unique, s.ok() ? bad.err : s.err);
  Reply(w.fd, r.head->unique, out, used);
}

void Session::DoStatfs(Worker& w, const Request& r) {
  fuse_statfs_out out{};
  out.st.blocks = total_blocks_;
  out.st.files = o_.image->inode_count();
  out.st.bsize = out.st.frsize = 4096;
  out.st.namelen = NAME_MAX;
  Reply(w.fd, r.head->unique, &out, sizeof out);
}

void Session::DoGetxattr(Worker& w, const Request& r) {
  const auto* in = r.As<fuse_getxattr_in>();
  // The kernel before and after 7.33 sends the same 8 bytes here for GETXATTR.
  if (!in) return ReplyError(w.fd, r.head->unique, EINVAL);
  std::string value;
  if (Status s = o_.image->GetXattr(ToNid(r.head->nodeid), r.Name(sizeof *in), &value); !s.ok())
    return ReplyError(w.fd, r.head->unique, s.err);
  if (in->size == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(value.size());
    return Reply(w.fd, r.head->unique, &out, sizeof out);
  }
  if (value.size() > in->size) return ReplyError(w.fd, r.head->unique, ERANGE);
  Reply(w.fd, r.head->unique, value.data(), value.size());
}

void Session::DoListxattr(Worker& w, const Request& r) {
  const auto* in = r.As<fuse_getxattr_in>();
  if (!in) return ReplyError(w.fd, r.head->unique, EINVAL);
  std::string names;
  if (Status s = o_.image->ListXattr(ToNid(r.head->nodeid), &names); !s.ok())
    return ReplyError(w.fd, r.head->unique, s.err);
  // Kernel file systems show these to the administrator only; VFS checks reading their values, but not this list.
  if (r.head->uid != 0) RemoveTrusted(&names);
  if (in->size == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(names.size());
    return Reply(w.fd, r.head->unique, &out, sizeof out);
  }
  if (names.size() > in->size) return ReplyError(w.fd, r.head->unique, ERANGE);
  Reply(w.fd, r.head->unique, names.data(), names.size());
}

}  // namespace ocifs::fuse
