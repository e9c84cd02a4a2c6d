// A FUSE session over a socket that stands in for /dev/fuse: every request a kernel would never send, and the ones it does.
// A reply must belong to a request and be well-formed; nothing may crash, hang or read past its bounds (ASan).
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "../../native/fuse/session.h"
#include "../../native/fuse/tree_files.h"
#include "check.h"
#include "erofs_tiny_image.h"

using namespace ocifs;

namespace {
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kFileNid = 64, kLinkNid = 72;  // of the tiny image
constexpr uint64_t kDeviceBytes = 64 * 512;

struct Reply {
  int error = 0;
  Bytes body;
};

class Kernel {
 public:
  explicit Kernel(unsigned workers = 3) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    // Replies of 1 MiB must fit.
    const int room = 8 << 20;
    for (int fd : pair) CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0 || errno == EPERM);
    fd_ = pair[0];
    std::unique_ptr<erofs::Image> image;
    OK(erofs::Image::OpenBytes(TinyImage(), &image));
    layer::SpanStore::Options so;
    so.out_starts = {0, 3000, 4000, kDeviceBytes};
    OK(layer::SpanStore::Open(std::move(so), &store));
    fuse::Session::Options o;
    o.fds = {pair[1]};
    o.workers = workers;
    OK(fuse::TreeFiles::Create(std::move(image), {store}, &o.files));
    o.on_miss = [this](const fuse::Miss& m) {
      CHECK(m.device == 1 && m.spans.first <= m.spans.last && m.spans.last < 3 && m.file_end_span < 3);
      misses++;
    };
    o.on_end = [this](int) { ends++; };
    OK(fuse::Session::Start(std::move(o), &session));
  }
  ~Kernel() {
    session->Stop();
    session.reset();
    close(fd_);
    CHECK(ends == 1);
  }

  uint64_t Send(uint32_t opcode, uint64_t nodeid, const Bytes& body) {
    const uint64_t unique = next_ += 2;
    fuse_in_header h{};
    h.len = static_cast<uint32_t>(sizeof h + body.size());
    h.opcode = opcode;
    h.unique = unique;
    h.nodeid = nodeid;
    Bytes packet(sizeof h);
    std::memcpy(packet.data(), &h, sizeof h);
    packet.insert(packet.end(), body.begin(), body.end());
    SendRaw(packet);
    return unique;
  }
  void SendRaw(const Bytes& packet) { CHECK(send(fd_, packet.data(), packet.size(), 0) == static_cast<ssize_t>(packet.size())); }

  // The next reply, whatever it belongs to.
  std::pair<uint64_t, Reply> Receive() {
    const ssize_t n = recv(fd_, in_.data(), in_.size(), 0);
    CHECK(n >= static_cast<ssize_t>(sizeof(fuse_out_header)));
    fuse_out_header h;
    std::memcpy(&h, in_.data(), sizeof h);
    CHECK(h.len == static_cast<size_t>(n) && h.error <= 0 && h.error > -4096);
    CHECK(h.error == 0 || h.len == sizeof h);
    return {h.unique, {-h.error, Bytes(in_.begin() + sizeof h, in_.begin() + n)}};
  }
  Reply Ask(uint32_t opcode, uint64_t nodeid, const Bytes& body = {}) {
    const uint64_t unique = Send(opcode, nodeid, body);
    auto [got, reply] = Receive();
    CHECK(got == unique);
    return reply;
  }
  // Everything before it has been answered when this has.
  void Sync() { CHECK(Ask(FUSE_GETATTR, FUSE_ROOT_ID, Bytes(16)).error == 0); }

  std::shared_ptr<layer::SpanStore> store;
  std::shared_ptr<fuse::Session> session;
  std::atomic<int> misses{0}, ends{0};

 private:
  int fd_ = -1;
  uint64_t next_ = 1000;
  Bytes in_ = Bytes(2 << 20);
};

template <class T>
Bytes BytesOf(const T& value) {
  Bytes out(sizeof value);
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

Bytes ReadArgs(uint64_t offset, uint32_t size) {
  fuse_read_in in{};
  in.offset = offset;
  in.size = size;
  return BytesOf(in);
}

Bytes Text(const std::string& s) {
  Bytes out(s.begin(), s.end());
  out.push_back(0);
  return out;
}

void Commit(layer::SpanStore& store, uint64_t span, uint8_t value) {
  layer::Target target;
  OK(store.BeginSpan(span, &target));
  const Bytes bytes(store.span_size(span), value);
  OK(store.WriteSpan(target, span, 0, bytes.data(), bytes.size()));
  OK(store.CommitSpan(target, span));
}

Bytes InitArgs(uint32_t major, uint32_t minor, uint32_t flags) {
  fuse_init_in in{};
  in.major = major;
  in.minor = minor;
  in.flags = flags;
  return BytesOf(in);
}

void TestInit() {
  Kernel k;
  const Reply r = k.Ask(FUSE_INIT, 0, InitArgs(7, 40, UINT32_MAX));
  CHECK(r.error == 0 && r.body.size() == sizeof(fuse_init_out));
  fuse_init_out out;
  std::memcpy(&out, r.body.data(), sizeof out);
  CHECK(out.major == 7 && out.max_pages == 256 && out.max_background > 0);
  CHECK(k.Ask(FUSE_INIT, 0, InitArgs(8, 1, 0)).error == 0);  // "speak 7 with me"
  CHECK(k.Ask(FUSE_INIT, 0, InitArgs(7, 12, 0)).error == EPROTO);
  CHECK(k.Ask(FUSE_INIT, 0, InitArgs(6, 40, 0)).error == EPROTO);
  for (size_t size = 0; size < 16; size++) CHECK(k.Ask(FUSE_INIT, 0, Bytes(size, 7)).error == EINVAL);
  // An old kernel sends the first 16 bytes only, and flags that promise more must not be believed.
  Bytes half = InitArgs(7, 40, UINT32_MAX);
  half.resize(16);
  CHECK(k.Ask(FUSE_INIT, 0, half).error == 0);
}

void TestAnswers() {
  Kernel k;
  CHECK(k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, Text("file")).body.size() == sizeof(fuse_entry_out));
  const Reply none = k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, Text("nothing"));
  fuse_entry_out entry;
  std::memcpy(&entry, none.body.data(), sizeof entry);
  CHECK(none.error == 0 && entry.nodeid == 0 && entry.entry_valid > 0);
  CHECK(k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, Text("")).error == EINVAL);
  CHECK(k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, Text(std::string(256, 'x'))).error == ENAMETOOLONG);
  CHECK(k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, Bytes(100'000, 'x')).error == ENAMETOOLONG);
  CHECK(k.Ask(FUSE_LOOKUP, FUSE_ROOT_ID, {}).error == EINVAL);
  CHECK(k.Ask(FUSE_LOOKUP, kFileNid, Text("x")).error == ENOTDIR);
  CHECK(k.Ask(FUSE_GETATTR, kFileNid, {}).body.size() == sizeof(fuse_attr_out));
  const Bytes target = k.Ask(FUSE_READLINK, kLinkNid).body;
  CHECK(std::string(target.begin(), target.end()) == "file");
  CHECK(k.Ask(FUSE_READLINK, kFileNid).error == EINVAL);
  for (const uint32_t opcode : {FUSE_OPEN, FUSE_OPENDIR, FUSE_RELEASE, FUSE_ACCESS, FUSE_LSEEK})
    CHECK(k.Ask(opcode, kFileNid).error == ENOSYS);
  for (const uint32_t opcode : {FUSE_WRITE, FUSE_UNLINK, FUSE_SETATTR, FUSE_CREATE, FUSE_SETXATTR, FUSE_RENAME2})
    CHECK(k.Ask(opcode, kFileNid).error == EROFS);
  CHECK(k.Ask(FUSE_STATFS, FUSE_ROOT_ID).body.size() == sizeof(fuse_statfs_out));
  CHECK(k.Ask(FUSE_DESTROY, 0).error == 0);
  for (const uint32_t opcode : {0u, 7u, 999u, UINT32_MAX}) CHECK(k.Ask(opcode, 1).error == ENOSYS);
}

void TestReads() {
  Kernel k;
  // Past the end, and lengths and offsets that add up to more than 64 bits.
  CHECK(k.Ask(FUSE_READ, kFileNid, ReadArgs(1000, 4096)).body.empty());
  CHECK(k.Ask(FUSE_READ, kFileNid, ReadArgs(UINT64_MAX, UINT32_MAX)).body.empty());
  CHECK(k.Ask(FUSE_READ, kFileNid, ReadArgs(UINT64_MAX - 100, 4096)).body.empty());
  CHECK(k.Ask(FUSE_READ, kFileNid, ReadArgs(512, UINT32_MAX)).body == Bytes(488));  // a hole
  CHECK(k.Ask(FUSE_READ, kFileNid, ReadArgs(0, 0)).error == 0);
  CHECK(k.Ask(FUSE_READ, kFileNid, Bytes(10)).error == EINVAL);
  CHECK(k.Ask(FUSE_READ, FUSE_ROOT_ID, ReadArgs(0, 4096)).error == EISDIR);
  CHECK(k.misses == 0);

  // Parked, answered by the last of its spans.
  const uint64_t waits = k.Send(FUSE_READ, kFileNid, ReadArgs(0, 4096));
  k.Sync();
  while (k.misses == 0) std::this_thread::yield();
  Commit(*k.store, 0, 7);
  Commit(*k.store, 1, 8);
  Commit(*k.store, 2, 9);
  auto [unique, reply] = k.Receive();
  CHECK(unique == waits && reply.error == 0 && reply.body.size() == 1000);
  // Byte 7 * 512 of the device lies in span 1, the next 96 as well, and the rest in span 2.
  Bytes want(1000);
  for (size_t i = 0; i < 512; i++) want[i] = 7 * 512 + i < 4000 ? 8 : 9;
  CHECK(reply.body == want);
}

void TestInterrupts() {
  Kernel k;
  std::map<uint64_t, int> answers;
  std::vector<uint64_t> reads;
  for (int i = 0; i < 20; i++) reads.push_back(k.Send(FUSE_READ, kFileNid, ReadArgs(0, 512)));
  while (k.misses < 20) std::this_thread::yield();
  for (int i = 0; i < 10; i++) {
    fuse_interrupt_in in{};
    in.unique = reads[static_cast<size_t>(i)];
    // Twice, and with unknown ones between.
    k.Send(FUSE_INTERRUPT, 0, BytesOf(in));
    k.Send(FUSE_INTERRUPT, 0, BytesOf(in));
    in.unique = 77'000'000 + static_cast<uint64_t>(i);
    k.Send(FUSE_INTERRUPT, 0, BytesOf(in));
  }
  k.Send(FUSE_INTERRUPT, 0, Bytes(3));
  for (int i = 0; i < 10; i++) {
    auto [unique, reply] = k.Receive();
    CHECK(reply.error == EINTR && ++answers[unique] == 1);
  }
  k.store->Fail({0, 2}, EIO);
  for (int i = 0; i < 10; i++) {
    auto [unique, reply] = k.Receive();
    CHECK(reply.error == EIO && ++answers[unique] == 1);
  }
  for (const uint64_t unique : reads) CHECK(answers[unique] == 1);
  // Those that wait when the session stops get an answer too.
  k.Send(FUSE_READ, kFileNid, ReadArgs(0, 512));
  while (k.misses < 21) std::this_thread::yield();
  k.session->Stop();
  CHECK(k.Receive().second.error == EIO);
}

// A directory listing must parse, whatever was asked.
void CheckDirents(const Bytes& body, bool plus, size_t limit) {
  CHECK(body.size() <= limit);
  for (size_t at = 0; at < body.size();) {
    fuse_dirent d;
    const size_t head = plus ? sizeof(fuse_entry_out) : 0;
    CHECK(at + head + FUSE_NAME_OFFSET <= body.size());
    std::memcpy(&d, body.data() + at + head, FUSE_NAME_OFFSET);
    CHECK(d.namelen > 0 && d.namelen <= 255);
    at += (head + FUSE_NAME_OFFSET + d.namelen + 7) & ~size_t{7};
    CHECK(at <= body.size());
  }
}

void TestDirectories() {
  Kernel k;
  for (const bool plus : {false, true})
    for (const uint32_t size : {0u, 1u, 24u, 100u, 4096u, UINT32_MAX})
      for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{1000}, UINT64_MAX})
        for (const uint64_t nodeid : {uint64_t{FUSE_ROOT_ID}, kFileNid, uint64_t{0}, UINT64_MAX}) {
          const Reply r = k.Ask(plus ? FUSE_READDIRPLUS : FUSE_READDIR, nodeid, ReadArgs(offset, size));
          if (r.error == 0) CheckDirents(r.body, plus, size);
        }
  CHECK(k.Ask(FUSE_READDIR, FUSE_ROOT_ID, Bytes(3)).error == EINVAL);
}

void TestXattrs() {
  Kernel k;
  fuse_getxattr_in in{};
  Bytes args = BytesOf(in);
  const auto with = [&](const std::string& name) {
    Bytes out = args;
    out.insert(out.end(), name.begin(), name.end());
    return out;
  };
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, with(std::string("user.k\0", 7))).body.size() == sizeof(fuse_getxattr_out));
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, with("user.k")).error == 0);  // without its NUL
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, with("")).error != 0);
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, with(std::string(70'000, 'u'))).error != 0);
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, Bytes(7)).error == EINVAL);
  CHECK(k.Ask(FUSE_LISTXATTR, kFileNid, args).error == 0);
  in.size = 1;
  CHECK(k.Ask(FUSE_LISTXATTR, kFileNid, BytesOf(in)).error == ERANGE);
  args = BytesOf(in);
  CHECK(k.Ask(FUSE_GETXATTR, kFileNid, with("user.k")).error == ERANGE);
  in.size = UINT32_MAX;
  const Bytes names = k.Ask(FUSE_LISTXATTR, kFileNid, BytesOf(in)).body;
  CHECK(!names.empty() && names.back() == 0);
}

// Packets that are no requests get no answer; the session goes on.
void TestBrokenPackets() {
  Kernel k;
  fuse_in_header h{};
  h.opcode = FUSE_GETATTR;
  h.unique = 5;
  for (size_t size = 1; size < sizeof h; size++) k.SendRaw(Bytes(size, 0xff));
  for (const uint32_t len : {0u, 1u, 39u, 41u, 1u << 20, UINT32_MAX}) {
    h.len = len;
    k.SendRaw(BytesOf(h));
  }
  k.Send(FUSE_FORGET, kFileNid, Bytes(8));
  k.Send(FUSE_FORGET, UINT64_MAX, {});
  k.Send(FUSE_BATCH_FORGET, 0, Bytes(8, 0xff));
  k.Sync();
}

// Anything at all, from a fixed seed: known opcodes with random arguments and nodes.
void TestRandom() {
  Kernel k(1);
  Commit(*k.store, 0, 1);
  Commit(*k.store, 1, 1);
  Commit(*k.store, 2, 1);
  std::mt19937_64 random(42);
  const uint64_t nodes[] = {0, 1, 2, 47, 48, kFileNid, kLinkNid, 1ull << 62, 1ull << 63, UINT64_MAX, 100, 9999};
  for (int i = 0; i < 300'000; i++) {
    const uint32_t opcode = static_cast<uint32_t>(random() % 56);
    if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT) continue;
    Bytes body(random() % 8 == 0 ? random() % 300 : random() % 64);
    // Small numbers come closer to what is accepted than random ones.
    for (auto& b : body) b = random() % 3 == 0 ? static_cast<uint8_t>(random()) : 0;
    const uint64_t unique = k.Send(opcode, random() % 10 == 0 ? random() : nodes[random() % std::size(nodes)], body);
    auto [got, reply] = k.Receive();
    CHECK(got == unique);
    if (opcode == FUSE_READDIR && reply.error == 0) CheckDirents(reply.body, false, fuse::kMaxReadBytes);
    if (opcode == FUSE_READDIRPLUS && reply.error == 0) CheckDirents(reply.body, true, fuse::kMaxReadBytes);
  }
}

}  // namespace

int main() {
  TestInit();
  TestAnswers();
  TestReads();
  TestInterrupts();
  TestDirectories();
  TestXattrs();
  TestBrokenPackets();
  TestRandom();
  std::printf("ok\n");
}
