#include "session.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "protocol.h"
#include "reply_buffers.h"

namespace ocifs::fuse {

namespace {
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
}  // namespace

struct Session::Worker {
  int fd = -1;
  std::thread thread;
  std::atomic<bool> done{false};
  std::unique_ptr<uint8_t[]> in;
};

Session::Session(Options o)
    : o_(std::move(o)), reads_(*o_.files, counters_, o_.on_miss), requests_(*o_.files, counters_, reads_) {}

Status Session::Start(Options options, std::shared_ptr<Session>* out) {
  std::shared_ptr<Session> s(new Session(std::move(options)));
  s->reads_.SetOwner(s);
  if (Status st = s->StartWorkers(); !st.ok()) return st;
  *out = std::move(s);
  return Status::Ok();
}

Status Session::StartWorkers() {
  WakeSignal();
  const unsigned count = std::clamp(std::max(o_.workers, static_cast<unsigned>(o_.fds.size())), 1u, 64u);
  for (unsigned i = 0; i < count; i++) {
    auto w = std::make_unique<Worker>();
    w->fd = o_.fds[0];
    if (i < o_.fds.size()) {
      w->fd = o_.fds[i];
    } else {
      // A clone has its own queue of requests being processed, so workers do not contend for one lock. Where /dev/fuse
      // cannot be opened (unprivileged), workers share the fd, which the kernel allows as well.
      int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
      uint32_t master = static_cast<uint32_t>(o_.fds[0]);
      if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
        close(clone);
        clone = -1;
      }
      if (clone >= 0) w->fd = clone;
    }
    // Not filled: most requests are a few bytes, and what is not touched takes no memory.
    w->in.reset(new uint8_t[kRequestBytes]);
    workers_.push_back(std::move(w));
  }
  running_ = count;
  for (auto& w : workers_) w->thread = std::thread([this, p = w.get()] { Run(*p); });
  return Status::Ok();
}

Session::~Session() {
  Stop();
  for (auto& w : workers_)
    if (w->fd != o_.fds[0]) close(w->fd);
  close(o_.fds[0]);
}

std::vector<int> Session::fds() const {
  std::vector<int> all{o_.fds[0]};
  for (auto& w : workers_)
    if (w->fd != o_.fds[0]) all.push_back(w->fd);
  return all;
}

void Session::Stop(Parked parked) {
  reads_.BeginStop(parked);
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
  reads_.Finish();
}

Status Session::Resend() {
  fuse_out_header h{};
  h.len = sizeof h;
  h.error = kNotifyResend;  // a notification: unique 0, its code where the error stands
  if (write(o_.fds[0], &h, sizeof h) < 0) return Status::Errno(errno, "ask the kernel to send requests again");
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
    ssize_t n = read(w.fd, w.in.get(), kRequestBytes);
    if (n < 0) {
      // ENOENT: the request was taken back between waking us and being read.
      if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
      err = errno == ENODEV ? 0 : errno;  // ENODEV: unmounted
      break;
    }
    const ReplyBuffers::Lent out;
    requests_.Answer(w.fd, w.in.get(), static_cast<size_t>(n), out.get());
  }
  if (err != 0) end_err_ = err;
  const bool last = --running_ == 0;
  if (last && o_.on_end) o_.on_end(end_err_);
  w.done = true;
}

}  // namespace ocifs::fuse
