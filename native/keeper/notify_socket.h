// The socket on which a daemon talks to its keeper: datagrams of sd_notify(3), descriptors attached.
#pragma once
#include <stdbool.h>
#include <sys/types.h>

struct notify_handler {
  void (*on_ready)(void);
  // NUL-separated arguments of the program to start next, `bytes` in all.
  void (*on_program)(const char* arguments, size_t bytes);
};

// Opens it under an address that the kernel chooses; writes "@…" for NOTIFY_SOCKET to `address`. Returns the descriptor, -1 with errno.
int notify_open(char* address, size_t size);
// Takes all that has arrived. Only messages of `daemon` count.
void notify_drain(int socket, pid_t daemon, const struct notify_handler* handler);
