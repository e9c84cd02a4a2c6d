// One datagram to a service manager's notification socket (sd_notify(3)): Node has no Unix datagram sockets.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <vector>

#include "../base/async.h"
#include "../base/napi_util.h"

namespace ocifs {
namespace {

// SCM_MAX_FD: the kernel passes no more descriptors in one message.
constexpr size_t kMaxFds = 253;
// A manager that is stopped must not hold a thread of the pool for ever.
constexpr timeval kSendTimeout{5, 0};

// `address` is a path, or an abstract name when its first byte is NUL.
Status Send(const std::string& address, const std::string& message, const std::vector<int>& fds) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  // A path needs its NUL; an abstract name is as long as the address says.
  const bool abstract = !address.empty() && address[0] == '\0';
  if (address.empty() || address.size() + (abstract ? 0 : 1) > sizeof to.sun_path)
    return Status::Usage("NOTIFY_SOCKET: an address of " + std::to_string(address.size()) + " bytes; a Unix socket has 1 to 107");
  std::memcpy(to.sun_path, address.data(), address.size());
  const socklen_t to_size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size() + (abstract ? 0 : 1));

  iovec v{const_cast<char*>(message.data()), message.size()};
  std::vector<char> control(fds.empty() ? 0 : CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr m{};
  m.msg_name = &to;
  m.msg_namelen = to_size;
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  if (!fds.empty()) {
    m.msg_control = control.data();
    m.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
  }

  const int socket_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket_fd < 0) return Status::Errno(errno, "create notification socket");
  Status status = Status::Ok();
  if (setsockopt(socket_fd, SOL_SOCKET, SO_SNDTIMEO, &kSendTimeout, sizeof kSendTimeout) < 0)
    status = Status::Errno(errno, "set send timeout of notification socket");
  if (status.ok()) {
    ssize_t n;
    do n = sendmsg(socket_fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0) status = Status::Errno(errno, "send notification to the service manager");
  }
  close(socket_fd);
  return status;
}

// sendNotification(address, message, fds) → Promise<void>. The descriptors stay the caller's, open until the promise settles.
Napi::Value SendNotification(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsString() || !info[1].IsString() || !info[2].IsArray())
    throw ToError(env, Status::Usage("sendNotification wants an address, a message and an array of descriptors"));
  std::string address = info[0].As<Napi::String>().Utf8Value();
  std::string message = info[1].As<Napi::String>().Utf8Value();
  Napi::Array list = info[2].As<Napi::Array>();
  if (list.Length() > kMaxFds)
    throw ToError(env, Status::Limit("notification with " + std::to_string(list.Length()) + " descriptors; the kernel passes " + std::to_string(kMaxFds)));
  std::vector<int> fds;
  for (uint32_t i = 0; i < list.Length(); i++) fds.push_back(ToInt(list.Get(i), "descriptor"));
  return AsyncTask::Run(
      env, [=] { return Send(address, message, fds); }, [](Napi::Env e) -> Napi::Value { return e.Undefined(); });
}

}  // namespace

void InitNotify(Napi::Env env, Napi::Object exports) {
  exports.Set("sendNotification", Napi::Function::New(env, SendNotification));
}
}  // namespace ocifs
