// Receiving a file descriptor over a Unix socket: how fusermount3 hands over the mounted /dev/fuse.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/async.h"
#include "../base/napi_util.h"

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

}  // namespace

void InitFdPass(Napi::Env env, Napi::Object exports) {
  exports.Set("socketPair", Napi::Function::New(env, SocketPair));
  exports.Set("receiveFd", Napi::Function::New(env, ReceiveFd));
}
}  // namespace ocifs
