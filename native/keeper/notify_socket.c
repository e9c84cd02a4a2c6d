#define _GNU_SOURCE
#include "notify_socket.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fd_store.h"

enum {
  MESSAGE_MAX = 8192,     // two paths and a few words
  FDS_PER_MESSAGE = 253,  // SCM_MAX_FD
};

int notify_open(char* address, size_t size) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const int on = 1;
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  socklen_t length = sizeof name;
  // An address of the family alone lets the kernel choose an abstract one. Anybody may send there, so senders are checked.
  if (bind(fd, (struct sockaddr*)&name, sizeof(sa_family_t)) < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
      getsockname(fd, (struct sockaddr*)&name, &length) < 0) {
    const int e = errno;
    close(fd);
    errno = e;
    return -1;
  }
  const int bytes = (int)(length - offsetof(struct sockaddr_un, sun_path)) - 1;
  snprintf(address, size, "@%.*s", bytes, name.sun_path + 1);
  return fd;
}

// The value of KEY=VALUE when the line is of that key.
static const char* value_of(const char* line, const char* key) {
  const size_t length = strlen(key);
  return strncmp(line, key, length) == 0 && line[length] == '=' ? line + length + 1 : NULL;
}

static void apply(char* text, size_t bytes, int* fds, size_t count, const struct notify_handler* handler) {
  // What follows this line is not lines.
  char* program = memmem(text, bytes, "X_OCIFS_PROGRAM=", 16);
  if (program == text || (program && program[-1] == '\n')) {
    handler->on_program(program + 16, bytes - (size_t)(program + 16 - text));
    *program = 0;
  }
  const char* name = NULL;
  bool keep = false, removed = false;
  char* rest = text;
  for (char* line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
    const char* v;
    if ((v = value_of(line, "FDNAME"))) name = v;
    if (strcmp(line, "FDSTORE=1") == 0) keep = true;
    if (strcmp(line, "FDSTOREREMOVE=1") == 0) removed = true;
    if (strcmp(line, "READY=1") == 0) handler->on_ready();
  }
  if (removed && name) store_remove(name);
  for (size_t i = 0; i < count; i++) {
    if (!keep || !name)
      close(fds[i]);
    else if (!store_add(name, fds[i]))
      fprintf(stderr, "ocifs-keeper: a descriptor named %.64s cannot be kept\n", name);
  }
}

void notify_drain(int socket, pid_t daemon, const struct notify_handler* handler) {
  static char text[MESSAGE_MAX + 1];
  static union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int) * FDS_PER_MESSAGE)];
  } control;
  for (;;) {
    struct iovec v = {.iov_base = text, .iov_len = MESSAGE_MAX};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    const ssize_t n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
    if (n < 0) {
      if (errno == EINTR) continue;
      return;
    }
    pid_t sender = 0;
    int fds[FDS_PER_MESSAGE];
    size_t count = 0;
    for (struct cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
      if (c->cmsg_level != SOL_SOCKET) continue;
      if (c->cmsg_type == SCM_CREDENTIALS) {
        struct ucred cred;
        memcpy(&cred, CMSG_DATA(c), sizeof cred);
        sender = cred.pid;
      } else if (c->cmsg_type == SCM_RIGHTS) {
        const size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds + count, CMSG_DATA(c), got * sizeof(int));
        count += got;
      }
    }
    if (sender != daemon || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
      for (size_t i = 0; i < count; i++) close(fds[i]);
      continue;
    }
    text[n] = 0;
    apply(text, (size_t)n, fds, count, handler);
  }
}
