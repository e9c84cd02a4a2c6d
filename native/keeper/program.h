// The daemon as a child process: what is started, with which descriptors.
#pragma once
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct start {
  char* const* argv;            // NULL-terminated
  const char* notify_address;   // NOTIFY_SOCKET
  unsigned restarts;            // OCIFS_RESTARTS: how often it has been started again
  bool stop;                    // OCIFS_STOP=1: it takes the mounts over in order to end them
  const sigset_t* signals;      // the mask that the child gets
  int oom_score_adjust;         // proc(5)
};

// fork and exec with what is kept as descriptors 3 and up (sd_listen_fds(3)). The first start keeps the caller's descriptors as
// they are: orders on 0, the readiness pipe on 3. Returns the child, -1 with errno.
pid_t program_start(const struct start* start);
