// File descriptors over Unix sockets: what fusermount3 hands over, and what `ocifs serve` hands out.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/async.h"
#include "../base/napi_util.h"
#include "message.h"
#include "poller.h"

namespace ocifs {
namespace {

// socketPair() → [fd, fd]; both close on exec (a child gets one through its stdio table).
Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
    throw ToError(info.Env(), Status::Errno(errno, "create socket pair"));
  Napi::Array out = Napi::Array::New(info.Env(), 2);
  out.Set(0u, Napi::Number::New(info.Env(), fds[0]));
  out.Set(1u, Napi::Number::New(info.Env(), fds[1]));
  return out;
}

Status Receive(int socket, int* fd) {
  *fd = -1;
  char byte;
  iovec v{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return Status::Errno(errno, "receive file descriptor");
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
      std::memcpy(fd, CMSG_DATA(c), sizeof(int));
  if (*fd < 0) return Status{ENODATA, "io", "the other side closed its socket without passing a file descriptor"};
  return Status::Ok();
}

// receiveFd(socketFd) → Promise<fd>. Waits on a pool thread; ends when the other side closes.
Napi::Value ReceiveFd(const Napi::CallbackInfo& info) {
  const int socket = ToInt(info[0], "socket");
  auto fd = std::make_shared<int>(-1);
  return AsyncTask::Run(
      info.Env(), [=] { return Receive(socket, fd.get()); },
      [fd](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *fd); });
}

struct Bytes {
  uint8_t* data;
  size_t size;
};

Bytes ToBytes(const Napi::Value& v) {
  if (!v.IsTypedArray()) throw ToError(v.Env(), Status::Usage("want bytes"));
  Napi::TypedArray a = v.As<Napi::TypedArray>();
  return {static_cast<uint8_t*>(a.ArrayBuffer().Data()) + a.ByteOffset(), a.ByteLength()};
}

// listenSocket(path, backlog) → fd
Napi::Value ListenSocket(const Napi::CallbackInfo& info) {
  int fd = -1;
  ThrowIfFailed(info.Env(), fdpass::Listen(info[0].ToString().Utf8Value(), ToInt(info[1], "backlog"), &fd));
  return Napi::Number::New(info.Env(), fd);
}

// acceptSocket(fd) → {fd, pid, uid, gid}, or undefined
Napi::Value AcceptSocket(const Napi::CallbackInfo& info) {
  fdpass::Peer peer;
  ThrowIfFailed(info.Env(), fdpass::Accept(ToInt(info[0], "socket"), &peer));
  if (peer.fd < 0) return info.Env().Undefined();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("fd", Napi::Number::New(info.Env(), peer.fd));
  out.Set("pid", Napi::Number::New(info.Env(), peer.pid));
  out.Set("uid", Napi::Number::New(info.Env(), peer.uid));
  out.Set("gid", Napi::Number::New(info.Env(), peer.gid));
  return out;
}

Napi::Value ConnectSocket(const Napi::CallbackInfo& info) {
  int fd = -1;
  ThrowIfFailed(info.Env(), fdpass::Connect(info[0].ToString().Utf8Value(), &fd));
  return Napi::Number::New(info.Env(), fd);
}

// sendMessage(fd, bytes, fds) → bytes sent; 0: wait until it can be written to
Napi::Value SendMessage(const Napi::CallbackInfo& info) {
  const Bytes bytes = ToBytes(info[1]);
  std::vector<int> fds;
  Napi::Array list = info[2].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) fds.push_back(ToInt(list.Get(i), "descriptor"));
  size_t sent = 0;
  ThrowIfFailed(info.Env(), fdpass::Send(ToInt(info[0], "socket"), bytes.data, bytes.size, fds, &sent));
  return Napi::Number::New(info.Env(), static_cast<double>(sent));
}

// receiveMessage(fd, into) → {bytes, truncated, fds}, or undefined when there is nothing yet
Napi::Value ReceiveMessage(const Napi::CallbackInfo& info) {
  const Bytes bytes = ToBytes(info[1]);
  fdpass::Received received;
  ThrowIfFailed(info.Env(), fdpass::Receive(ToInt(info[0], "socket"), bytes.data, bytes.size, &received));
  if (received.would_block) return info.Env().Undefined();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("bytes", Napi::Number::New(info.Env(), static_cast<double>(received.bytes)));
  out.Set("truncated", Napi::Boolean::New(info.Env(), received.truncated));
  Napi::Array fds = Napi::Array::New(info.Env(), received.fds.size());
  for (size_t i = 0; i < received.fds.size(); ++i) fds.Set(static_cast<uint32_t>(i), Napi::Number::New(info.Env(), received.fds[i]));
  out.Set("fds", fds);
  return out;
}

// dupFd(fd) → a second descriptor of the same open file
Napi::Value DupFd(const Napi::CallbackInfo& info) {
  const int fd = fcntl(ToInt(info[0], "fd"), F_DUPFD_CLOEXEC, 3);
  if (fd < 0) throw ToError(info.Env(), Status::Errno(errno, "duplicate descriptor"));
  return Napi::Number::New(info.Env(), fd);
}

// pipeFds() → [read end, write end]; both close on exec, and block.
Napi::Value PipeFds(const Napi::CallbackInfo& info) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) throw ToError(info.Env(), Status::Errno(errno, "create pipe"));
  Napi::Array out = Napi::Array::New(info.Env(), 2);
  out.Set(0u, Napi::Number::New(info.Env(), fds[0]));
  out.Set(1u, Napi::Number::New(info.Env(), fds[1]));
  return out;
}

// new SocketPoller(onReady(fd)): keeps the process alive until close().
class SocketPoller : public Napi::ObjectWrap<SocketPoller> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("SocketPoller", DefineClass(env, "SocketPoller",
                                            {InstanceMethod("arm", &SocketPoller::Arm), InstanceMethod("forget", &SocketPoller::Forget),
                                             InstanceMethod("close", &SocketPoller::Close)}));
  }

  explicit SocketPoller(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SocketPoller>(info) {
    ready_ = Napi::ThreadSafeFunction::New(info.Env(), info[0].As<Napi::Function>(), "ocifs-sockets", 0, 1);
    Status s = fdpass::Poller::Create(
        [this](int fd) {
          ready_.NonBlockingCall([fd](Napi::Env env, Napi::Function f) { f.Call({Napi::Number::New(env, fd)}); });
        },
        &poller_);
    if (!s.ok()) ready_.Release();
    ThrowIfFailed(info.Env(), s);
  }
  ~SocketPoller() override { Stop(); }

 private:
  Napi::Value Arm(const Napi::CallbackInfo& info) {
    if (!poller_) throw ToError(info.Env(), Status{ECANCELED, "aborted", "the poller is closed"});
    const std::string what = info[1].ToString();
    using Event = fdpass::Poller::Event;
    const Event event = what == "read" ? Event::kReadable : what == "write" ? Event::kWritable : Event::kBroken;
    ThrowIfFailed(info.Env(), poller_->Arm(ToInt(info[0], "fd"), event));
    return info.Env().Undefined();
  }
  Napi::Value Forget(const Napi::CallbackInfo& info) {
    if (poller_) poller_->Forget(ToInt(info[0], "fd"));
    return info.Env().Undefined();
  }
  Napi::Value Close(const Napi::CallbackInfo& info) {
    Stop();
    return info.Env().Undefined();
  }
  void Stop() {
    if (!poller_) return;
    poller_.reset();
    ready_.Release();
  }
  Napi::ThreadSafeFunction ready_;
  std::unique_ptr<fdpass::Poller> poller_;
};

}  // namespace

void InitFdPass(Napi::Env env, Napi::Object exports) {
  SocketPoller::Init(env, exports);
  exports.Set("listenSocket", Napi::Function::New(env, ListenSocket));
  exports.Set("acceptSocket", Napi::Function::New(env, AcceptSocket));
  exports.Set("connectSocket", Napi::Function::New(env, ConnectSocket));
  exports.Set("sendMessage", Napi::Function::New(env, SendMessage));
  exports.Set("receiveMessage", Napi::Function::New(env, ReceiveMessage));
  exports.Set("dupFd", Napi::Function::New(env, DupFd));
  exports.Set("pipeFds", Napi::Function::New(env, PipeFds));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair));
  exports.Set("receiveFd", Napi::Function::New(env, ReceiveFd));
}
}  // namespace ocifs
