// Requests to a FUSE session over a socket that stands in for /dev/fuse, on a tarindex that may be damaged. Input:
//   u8 flags: bits 0 to 2 which spans are present, bits 3 to 6 how many patches, bit 7 what happens to parked reads at the end
//   patches of the tiny image: u16 offset, u8 value
//   packets: u8 opcode, u8 node (an index of kNodes; 255: a u64 follows), u16 size of the body, the body. Opcode 255: the body
//   is the packet, header and all. The body of an INTERRUPT is one byte: how many packets ago the interrupted one was sent.
// Each request is answered exactly once, well-formed, except those that the protocol leaves without an answer.
#include "../../native/fuse/session.h"
#include "../../native/fuse/tree_files.h"

#include <sys/socket.h>

#include <map>

#include "../native/erofs_tiny_image.h"
#include "fuzz.h"

using namespace ocifs;
using fuzz::Bytes;

namespace {

constexpr uint64_t kDeviceBytes = 64 * 512;
constexpr uint64_t kNodes[] = {FUSE_ROOT_ID, 64, 72, 48, 0, 2, 47, 1ull << 62, UINT64_MAX};
constexpr size_t kPacketsMax = 16;
// Replies of parked reads all come at once at the end, and must fit the socket.
constexpr unsigned kLargeReadsMax = 3;

class Kernel {
 public:
  // Null when the image is refused.
  static std::unique_ptr<Kernel> Create(Bytes image_bytes, unsigned present) {
    std::unique_ptr<erofs::Image> image;
    if (!erofs::Image::OpenBytes(std::move(image_bytes), &image).ok()) return nullptr;
    auto k = std::unique_ptr<Kernel>(new Kernel());
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    const int room = 8 << 20;
    for (int fd : pair) CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0 || errno == EPERM);
    k->fd_ = pair[0];
    layer::SpanStore::Options so;
    so.out_starts = {0, 3000, 4000, kDeviceBytes};
    CHECK(layer::SpanStore::Open(std::move(so), &k->store_).ok());
    for (uint64_t span = 0; span < 3; span++)
      if (present >> span & 1) k->Commit(span);
    fuse::Session::Options o;
    o.fds = {pair[1]};
    o.workers = 1;
    if (!fuse::TreeFiles::Create(std::move(image), {k->store_}, &o.files).ok()) {
      close(pair[1]);
      return nullptr;
    }
    o.on_miss = [](const fuse::Miss& m) {
      CHECK(m.device == 1 && m.spans.first <= m.spans.last && m.spans.last <= m.file_end_span && m.file_end_span < 3);
    };
    o.on_end = [](int) {};
    if (fuse::Session::Start(std::move(o), &k->session_).ok()) return k;
    close(pair[1]);
    return nullptr;
  }
  ~Kernel() {
    if (session_) session_->Stop();
    session_.reset();
    close(fd_);
  }

  void Run(fuzz::Input& input, bool serve) {
    std::vector<uint64_t> sent;
    std::map<uint64_t, int> wanted;  // answers still to come
    unsigned large = 0;
    for (size_t n = 0; n < kPacketsMax && !input.empty(); n++) {
      fuse_in_header h{};
      h.opcode = input.Take<uint8_t>();
      const auto node = input.Take<uint8_t>();
      h.nodeid = node == 255 ? input.Take<uint64_t>() : kNodes[node % std::size(kNodes)];
      Bytes body = input.TakeBytes(input.Take<uint16_t>() % 2048);
      if (h.opcode == 255) {
        if (body.empty()) continue;
        if (body.size() >= sizeof h) ForgetOrBreak(&body);
        Send(body);
      } else {
        if (h.opcode == FUSE_INTERRUPT && body.size() == 1) body = Interrupt(sent, body[0]);
        if (h.opcode == FUSE_READ && IsLarge(body) && ++large > kLargeReadsMax) continue;
        h.unique = next_ += 2;
        h.uid = n % 2;
        h.len = static_cast<uint32_t>(sizeof h + body.size());
        sent.push_back(h.unique);
        if (!Unanswered(h.opcode)) wanted[h.unique] = 1;
        Bytes packet(sizeof h);
        std::memcpy(packet.data(), &h, sizeof h);
        packet.insert(packet.end(), body.begin(), body.end());
        Send(packet);
      }
      Sync(&wanted);
    }
    // What is left are parked reads.
    for (uint64_t span = 0; serve && span < 3; span++)
      if (!store_->present(span)) Commit(span);
    store_->FailAll(EIO);
    while (!wanted.empty()) Receive(&wanted);
  }

 private:
  Kernel() = default;

  static bool Unanswered(uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
  }
  static bool IsLarge(const Bytes& body) {
    fuse_read_in in{};
    if (body.size() < sizeof in) return false;
    std::memcpy(&in, body.data(), sizeof in);
    return in.size > 0xffff;
  }
  // A raw packet gets no answer: its length is wrong, or its opcode has none.
  static void ForgetOrBreak(Bytes* packet) {
    fuse_in_header h;
    std::memcpy(&h, packet->data(), sizeof h);
    if (h.len == packet->size() && !Unanswered(h.opcode)) h.opcode = FUSE_FORGET;
    std::memcpy(packet->data(), &h, sizeof h);
  }
  static Bytes Interrupt(const std::vector<uint64_t>& sent, uint8_t back) {
    fuse_interrupt_in in{};
    in.unique = sent.empty() ? back : sent[sent.size() - 1 - back % sent.size()];
    Bytes out(sizeof in);
    std::memcpy(out.data(), &in, sizeof in);
    return out;
  }

  void Send(const Bytes& packet) {
    ssize_t n;
    do n = send(fd_, packet.data(), packet.size(), 0);
    while (n < 0 && errno == EINTR);
    CHECK(n == static_cast<ssize_t>(packet.size()));
  }

  // Everything before it has been answered, or is parked, when this has its answer: there is one worker.
  void Sync(std::map<uint64_t, int>* wanted) {
    fuse_in_header h{};
    h.opcode = FUSE_STATFS;
    h.nodeid = FUSE_ROOT_ID;
    h.unique = next_ += 2;
    h.len = sizeof h;
    Bytes packet(sizeof h);
    std::memcpy(packet.data(), &h, sizeof h);
    Send(packet);
    while (Receive(wanted) != h.unique) continue;
  }

  uint64_t Receive(std::map<uint64_t, int>* wanted) {
    ssize_t n;
    do n = recv(fd_, in_.data(), in_.size(), 0);
    while (n < 0 && errno == EINTR);  // libFuzzer's own timer
    fuse_out_header h;
    CHECK(n >= static_cast<ssize_t>(sizeof h));
    std::memcpy(&h, in_.data(), sizeof h);
    CHECK(h.len == static_cast<size_t>(n) && h.error <= 0 && h.error > -4096 && (h.error == 0 || h.len == sizeof h));
    CHECK(wanted->erase(h.unique) == 1 || h.unique == next_);
    return h.unique;
  }

  void Commit(uint64_t span) {
    layer::Target target;
    CHECK(store_->BeginSpan(span, &target).ok());
    const Bytes bytes(store_->span_size(span), 7);
    CHECK(store_->WriteSpan(target, span, 0, bytes.data(), bytes.size()).ok());
    CHECK(store_->CommitSpan(target, span).ok());
  }

  std::shared_ptr<layer::SpanStore> store_;
  std::shared_ptr<fuse::Session> session_;
  int fd_ = -1;
  uint64_t next_ = 1000;
  Bytes in_ = Bytes(2 << 20);
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Sessions on the undamaged image stay: starting one takes longer than a hundred requests. Parked reads that are served
  // change which spans are present, so that needs one of its own.
  static std::map<unsigned, std::unique_ptr<Kernel>> kept;
  fuzz::Input input(data, size);
  const auto flags = input.Take<uint8_t>();
  const unsigned present = flags & 7, patches = flags >> 3 & 15;
  const bool serve = flags & 0x80;
  Bytes image = TinyImage();
  for (unsigned i = 0; i < patches; i++) {
    const size_t at = input.Take<uint16_t>() % image.size();
    image[at] = input.Take<uint8_t>();
  }
  if (patches > 0 || serve) {
    if (const auto kernel = Kernel::Create(std::move(image), present)) kernel->Run(input, serve);
    return 0;
  }
  auto& kernel = kept[present];
  if (!kernel) kernel = Kernel::Create(std::move(image), present);
  CHECK(kernel != nullptr);
  kernel->Run(input, false);
  return 0;
}
