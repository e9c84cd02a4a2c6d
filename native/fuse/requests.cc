#include "requests.h"

#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "reply.h"

namespace ocifs::fuse {

namespace {
// Nothing changes while it is mounted: entries and attributes, also negative ones, may be kept for good.
constexpr uint64_t kForeverSeconds = 0x7fffffff;

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
}  // namespace

struct Requests::Request {
  int fd;
  const fuse_in_header* head;
  const uint8_t* body;
  size_t size;
  uint8_t* const out;

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

void Requests::Ok(const Request& r, const void* data, size_t size) { Reply(counters_, r.fd, r.head->unique, data, size); }

void Requests::Error(const Request& r, int err) { ReplyError(counters_, r.fd, r.head->unique, err); }

void Requests::Answer(int fd, const uint8_t* packet, size_t size, uint8_t* out) {
  const auto* head = reinterpret_cast<const fuse_in_header*>(packet);
  if (size < sizeof *head || head->len != size) return;
  counters_.requests.fetch_add(1, std::memory_order_relaxed);
  const Request r{fd, head, packet + sizeof *head, size - sizeof *head, out};
  switch (head->opcode) {
    case FUSE_INIT: return Init(r);
    case FUSE_LOOKUP: return Lookup(r);
    case FUSE_GETATTR: return Getattr(r);
    case FUSE_READLINK: return Readlink(r);
    case FUSE_READ: return Read(r);
    case FUSE_READDIR: return Readdir(r, false);
    case FUSE_READDIRPLUS: return Readdir(r, true);
    case FUSE_STATFS: return Statfs(r);
    case FUSE_GETXATTR: return Getxattr(r);
    case FUSE_LISTXATTR: return Listxattr(r);
    case FUSE_INTERRUPT:
      if (const auto* in = r.As<fuse_interrupt_in>()) reads_.Interrupt(in->unique);
      return;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET: return;  // no answer by protocol; nothing to forget
    case FUSE_DESTROY: return Ok(r, nullptr, 0);
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
    case FUSE_SETLKW: return Error(r, ENOSYS);
    case FUSE_IOCTL: return Error(r, ENOTTY);
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
    case FUSE_COPY_FILE_RANGE: return Error(r, EROFS);
    default: return Error(r, ENOSYS);
  }
}

void Requests::Init(const Request& r) {
  const auto* in = reinterpret_cast<const fuse_init_in*>(r.body);
  if (r.size < 16) return Error(r, EINVAL);
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = kMinorVersion;
  if (in->major > FUSE_KERNEL_VERSION) return Ok(r, &out, sizeof out);  // it will ask again in our version
  if (in->major < FUSE_KERNEL_VERSION || in->minor < 31) return Error(r, EPROTO);
  uint64_t offered = in->flags;
  if ((in->flags & FUSE_INIT_EXT) && r.size >= sizeof(fuse_init_in)) offered |= static_cast<uint64_t>(in->flags2) << 32;
  const uint64_t wanted = (files_.direct_reads_in_background() ? FUSE_ASYNC_DIO : 0u) | FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
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
  Ok(r, &out, sizeof out);
}

void Requests::Lookup(const Request& r) {
  const std::string_view name = r.Name();
  if (name.empty()) return Error(r, EINVAL);
  if (name.size() > NAME_MAX) return Error(r, ENAMETOOLONG);
  fuse_entry_out out{};
  out.entry_valid = out.attr_valid = kForeverSeconds;
  uint64_t node = r.head->nodeid;
  // "." and ".." come from open_by_handle_at(2). A handle may name anything: what is no inode is ESTALE there.
  const bool by_handle = name == ".";
  if (!by_handle) {
    Status s = files_.Lookup(r.head->nodeid, name, &node);
    // nodeid 0 with a validity is a negative entry the kernel keeps.
    if (s.err == ENOENT) return Ok(r, &out, sizeof out);
    if (!s.ok()) return Error(r, s.err);
  }
  if (Status s = files_.GetAttr(node, &out.attr); !s.ok()) return Error(r, by_handle ? ESTALE : s.err);
  out.nodeid = node;
  Ok(r, &out, sizeof out);
}

void Requests::Getattr(const Request& r) {
  fuse_attr_out out{};
  out.attr_valid = kForeverSeconds;
  if (Status s = files_.GetAttr(r.head->nodeid, &out.attr); !s.ok()) return Error(r, s.err);
  Ok(r, &out, sizeof out);
}

void Requests::Readlink(const Request& r) {
  std::string target;
  if (Status s = files_.ReadLink(r.head->nodeid, &target); !s.ok()) return Error(r, s.err);
  Ok(r, target.data(), target.size());
}

void Requests::Read(const Request& r) {
  const auto* in = r.As<fuse_read_in>();
  if (!in) return Error(r, EINVAL);
  counters_.reads.fetch_add(1, std::memory_order_relaxed);
  const uint32_t size = std::min<uint32_t>(in->size, kMaxReadBytes);
  reads_.Serve({r.fd, r.head->unique, r.head->nodeid, in->offset, size, NowNs()}, r.out);
}

void Requests::Readdir(const Request& r, bool plus) {
  const auto* in = r.As<fuse_read_in>();
  if (!in) return Error(r, EINVAL);
  const size_t limit = std::min<size_t>(in->size, kMaxReadBytes);
  uint8_t* const out = r.out;
  size_t used = 0;
  Status bad;
  Status s = files_.ReadDir(r.head->nodeid, in->offset, [&](const Entry& d, uint64_t next) {
    const size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    const size_t entry = (head + d.name.size() + 7) & ~size_t{7};
    if (used + entry > limit) return false;
    std::memset(out + used, 0, entry);
    fuse_dirent* dirent;
    if (plus) {
      auto* p = reinterpret_cast<fuse_direntplus*>(out + used);
      // "." and ".." are not entries the kernel links; nodeid 0 says so.
      if (d.name != "." && d.name != "..") {
        if (bad = files_.GetAttr(d.node, &p->entry_out.attr); !bad.ok()) return false;
        p->entry_out.nodeid = d.node;
        p->entry_out.entry_valid = p->entry_out.attr_valid = kForeverSeconds;
      }
      dirent = &p->dirent;
    } else {
      dirent = reinterpret_cast<fuse_dirent*>(out + used);
    }
    dirent->ino = d.ino;
    dirent->off = next;
    dirent->namelen = static_cast<uint32_t>(d.name.size());
    dirent->type = d.type;
    std::memcpy(dirent->name, d.name.data(), d.name.size());
    used += entry;
    return true;
  });
  // What was collected before a bad entry is still true; the next call meets the error at its start.
  if (used == 0 && (!s.ok() || !bad.ok())) return Error(r, s.ok() ? bad.err : s.err);
  Ok(r, out, used);
}

void Requests::Statfs(const Request& r) {
  fuse_statfs_out out{};
  const Totals totals = files_.totals();
  out.st.blocks = (totals.bytes + 4095) / 4096;
  out.st.files = totals.files;
  out.st.bsize = out.st.frsize = 4096;
  out.st.namelen = NAME_MAX;
  Ok(r, &out, sizeof out);
}

void Requests::Getxattr(const Request& r) {
  const auto* in = r.As<fuse_getxattr_in>();
  // The kernel before and after 7.33 sends the same 8 bytes here for GETXATTR.
  if (!in) return Error(r, EINVAL);
  std::string value;
  if (Status s = files_.GetXattr(r.head->nodeid, r.Name(sizeof *in), &value); !s.ok()) return Error(r, s.err);
  Value(r, in->size, value);
}

void Requests::Listxattr(const Request& r) {
  const auto* in = r.As<fuse_getxattr_in>();
  if (!in) return Error(r, EINVAL);
  std::string names;
  if (Status s = files_.ListXattr(r.head->nodeid, &names); !s.ok()) return Error(r, s.err);
  // Kernel file systems show these to the administrator only; VFS checks reading their values, but not this list.
  if (r.head->uid != 0) RemoveTrusted(&names);
  Value(r, in->size, names);
}

// `room` 0 asks for the size only.
void Requests::Value(const Request& r, uint32_t room, const std::string& value) {
  if (room == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(value.size());
    return Ok(r, &out, sizeof out);
  }
  if (value.size() > room) return Error(r, ERANGE);
  Ok(r, value.data(), value.size());
}

}  // namespace ocifs::fuse
