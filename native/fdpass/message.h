// Bytes and file descriptors over Unix stream sockets, without blocking.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../base/status.h"

namespace ocifs::fdpass {

// SCM_MAX_FD: what the kernel takes with one message.
constexpr size_t kMaxFds = 253;

struct Peer {
  int fd = -1;
  int32_t pid = 0;
  uint32_t uid = 0, gid = 0;
};

// A listening socket at `path` that only its owner may connect to; what is there must have been removed.
Status Listen(const std::string& path, int backlog, int* fd);
// The next client with its credentials at the time of connect(2); fd -1 when none waits.
Status Accept(int listener, Peer* peer);
Status Connect(const std::string& path, int* fd);

// Sends as much as fits now, the descriptors with the first byte. `*sent` 0: the peer must read first. `busy` when too many
// descriptors are under way (ETOOMANYREFS), in which case nothing was sent.
Status Send(int fd, const uint8_t* data, size_t size, const std::vector<int>& fds, size_t* sent);

struct Received {
  size_t bytes = 0;
  bool would_block = false;
  // The kernel has thrown descriptors away (MSG_CTRUNC); those that came were closed.
  bool truncated = false;
  std::vector<int> fds;
};
// Takes what is there; 0 bytes without would_block is the end. Descriptors close on exec and belong to the caller.
Status Receive(int fd, uint8_t* data, size_t size, Received* out);

}  // namespace ocifs::fdpass
