#include "poller.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace ocifs::fdpass {

Status Poller::Create(std::function<void(int)> on_ready, std::unique_ptr<Poller>* out) {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) return Status::Errno(errno, "create epoll");
  const int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = stop;
  if (stop < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, stop, &event) < 0) {
    const int e = errno;
    if (stop >= 0) close(stop);
    close(epoll);
    return Status::Errno(e, "create eventfd");
  }
  out->reset(new Poller(epoll, stop, std::move(on_ready)));
  return Status::Ok();
}

Poller::Poller(int epoll, int stop, std::function<void(int)> on_ready)
    : epoll_(epoll), stop_(stop), on_ready_(std::move(on_ready)), thread_([this] { Run(); }) {}

Poller::~Poller() {
  const uint64_t one = 1;
  // An eventfd that is full is readable too.
  if (write(stop_, &one, sizeof one) < 0 && errno != EAGAIN) std::abort();
  thread_.join();
  close(stop_);
  close(epoll_);
}

Status Poller::Arm(int fd, Event what) {
  epoll_event event{};
  event.events = EPOLLONESHOT;  // errors are always told
  if (what == Event::kReadable) event.events |= EPOLLIN | EPOLLRDHUP;
  if (what == Event::kWritable) event.events |= EPOLLOUT;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event) == 0) return Status::Ok();
  if (errno != ENOENT || epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) return Status::Errno(errno, "wait for a descriptor");
  return Status::Ok();
}

void Poller::Forget(int fd) { epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); }

void Poller::Run() {
  pthread_setname_np(pthread_self(), "ocifs-sockets");
  for (;;) {
    epoll_event events[64];
    const int n = epoll_wait(epoll_, events, 64, -1);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.fd == stop_) return;
      on_ready_(events[i].data.fd);
    }
  }
}

}  // namespace ocifs::fdpass
