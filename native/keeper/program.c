#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd_store.h"

enum { FIRST_FD = 3 };

static void set_number(const char* name, unsigned long value) {
  char text[32];
  snprintf(text, sizeof text, "%lu", value);
  setenv(name, text, 1);
}

// Kept descriptors may have the very numbers that they have to get, so they go by way of numbers above those.
static bool place_descriptors(void) {
  static int moved[STORE_MAX];
  const int count = (int)store_count();
  for (int i = 0; i < count; i++) {
    moved[i] = fcntl(store_fd((size_t)i), F_DUPFD_CLOEXEC, FIRST_FD + count);
    if (moved[i] < 0) return false;
  }
  for (int i = 0; i < count; i++)
    if (dup2(moved[i], FIRST_FD + i) < 0) return false;
  return true;
}

static void pass_descriptors(void) {
  if (store_count() == 0) return;
  size_t bytes = 1;
  for (size_t i = 0; i < store_count(); i++) bytes += strlen(store_name(i)) + 1;
  char* names = malloc(bytes);
  if (!names) _exit(127);
  names[0] = 0;
  char* at = names;
  for (size_t i = 0; i < store_count(); i++) at += sprintf(at, "%s%s", i ? ":" : "", store_name(i));
  set_number("LISTEN_FDS", store_count());
  set_number("LISTEN_PID", (unsigned long)getpid());
  setenv("LISTEN_FDNAMES", names, 1);
  if (!place_descriptors()) _exit(127);
}

pid_t program_start(const struct start* start) {
  const pid_t keeper = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDNAMES");
  setenv("NOTIFY_SOCKET", start->notify_address, 1);
  set_number("OCIFS_KEEPER_PID", (unsigned long)keeper);
  set_number("OCIFS_RESTARTS", start->restarts);
  if (start->stop) setenv("OCIFS_STOP", "1", 1);
  FILE* file = fopen("/proc/self/oom_score_adj", "we");
  if (file) {
    fprintf(file, "%d", start->oom_score_adjust);
    fclose(file);
  }
  pass_descriptors();
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, start->signals, NULL);
  execv(start->argv[0], start->argv);
  fprintf(stderr, "ocifs-keeper: cannot start %s: %s\n", start->argv[0], strerror(errno));
  _exit(127);
}
