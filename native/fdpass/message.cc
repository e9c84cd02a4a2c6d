#include "message.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace ocifs::fdpass {

namespace {
Status Address(const std::string& path, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address->sun_path)
    return Status::Usage("socket " + path + ": its path has " + std::to_string(path.size()) + " bytes, want 1 to " +
                         std::to_string(sizeof address->sun_path - 1));
  std::memcpy(address->sun_path, path.data(), path.size());
  return Status::Ok();
}

Status CloseWith(int fd, Status s) {
  close(fd);
  return s;
}
}  // namespace

Status Listen(const std::string& path, int backlog, int* out) {
  sockaddr_un address;
  Status s = Address(path, &address);
  if (!s.ok()) return s;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Status::Errno(errno, "create socket");
  // The mode is that of the socket when it is bound: nobody connects in between, since it does not listen yet.
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return CloseWith(fd, Status::Errno(errno, "bind socket " + path));
  if (chmod(path.c_str(), 0600) < 0) return CloseWith(fd, Status::Errno(errno, "protect socket " + path));
  if (listen(fd, backlog) < 0) return CloseWith(fd, Status::Errno(errno, "listen at " + path));
  *out = fd;
  return s;
}

Status Accept(int listener, Peer* peer) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Status::Ok();
    return Status::Errno(errno, "accept client");
  }
  ucred credentials;
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return CloseWith(fd, Status::Errno(errno, "ask who the client is"));
  *peer = {fd, credentials.pid, credentials.uid, credentials.gid};
  return Status::Ok();
}

Status Connect(const std::string& path, int* out) {
  sockaddr_un address;
  Status s = Address(path, &address);
  if (!s.ok()) return s;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Status::Errno(errno, "create socket");
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    const int e = errno;
    return CloseWith(fd, e == EAGAIN ? Status{EAGAIN, "busy", "socket " + path + ": too many clients wait there; try again"}
                                     : Status::Errno(e, "connect to " + path));
  }
  *out = fd;
  return s;
}

Status Send(int fd, const uint8_t* data, size_t size, const std::vector<int>& fds, size_t* sent) {
  *sent = 0;
  if (fds.size() > kMaxFds) return Status::Limit("send: " + std::to_string(fds.size()) + " descriptors, the kernel takes 253 at once");
  if (size == 0) return fds.empty() ? Status::Ok() : Status::Usage("send: descriptors need a byte to go with");
  iovec v{const_cast<uint8_t*>(data), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  if (!fds.empty()) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t n;
  do n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN) return Status::Ok();
    if (errno == ETOOMANYREFS) return Status{ETOOMANYREFS, "busy", "send: too many descriptors are under way (ETOOMANYREFS)"};
    return Status::Errno(errno, "send");
  }
  *sent = static_cast<size_t>(n);
  return Status::Ok();
}

Status Receive(int fd, uint8_t* data, size_t size, Received* out) {
  iovec v{data, size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno != EAGAIN) return Status::Errno(errno, "receive");
    out->would_block = true;
    return Status::Ok();
  }
  out->bytes = static_cast<size_t>(n);
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t before = out->fds.size();
    out->fds.resize(before + count);
    std::memcpy(out->fds.data() + before, CMSG_DATA(c), count * sizeof(int));
  }
  if (m.msg_flags & MSG_CTRUNC) {
    out->truncated = true;
    for (const int each : out->fds) close(each);
    out->fds.clear();
  }
  return Status::Ok();
}

}  // namespace ocifs::fdpass
