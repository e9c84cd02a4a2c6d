// One thread that waits for many descriptors (epoll) and says of each, once, that it is ready.
#pragma once
#include <functional>
#include <memory>
#include <thread>

#include "../base/status.h"

namespace ocifs::fdpass {

class Poller {
 public:
  // `on_ready` is called on the poller's thread, once for each Arm.
  static Status Create(std::function<void(int fd)> on_ready, std::unique_ptr<Poller>* out);
  ~Poller();
  enum class Event { kReadable, kWritable, kBroken };
  // Says once when `fd` can be read from or written to, or has an error or an end to tell; kBroken: the latter alone. A descriptor
  // waits for one thing at a time.
  Status Arm(int fd, Event what);
  // To be called before `fd` is closed.
  void Forget(int fd);

 private:
  Poller(int epoll, int stop, std::function<void(int)> on_ready);
  void Run();
  int epoll_, stop_;
  std::function<void(int)> on_ready_;
  std::thread thread_;
};

}  // namespace ocifs::fdpass
