// ocifs-keeper PROGRAM [ARGUMENT...]
//
// Starts the daemon, keeps the descriptors that it hands over (FUSE connections, a description of each mount), and starts it
// again with them when it dies: mounts outlive their daemon. To the daemon this is systemd: it speaks sd_notify(3) with
// FDSTORE=1 on NOTIFY_SOCKET and finds what is kept by sd_listen_fds(3).
//
// Ends with the daemon's exit code when the daemon ended by itself (code 0), when it failed before it handed anything over, or
// when nothing that it kept is mounted any more. SIGTERM and SIGINT are passed on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fd_store.h"
#include "notify_socket.h"
#include "program.h"

enum {
  // A daemon that served this long is started again at once; one that did not, after a pause that doubles.
  STEADY_MS = 5000,
  PAUSE_FIRST_MS = 100,
  PAUSE_MAX_MS = 10000,
  // So many deaths in a row, none of them after STEADY_MS, are reported as a crash loop.
  LOOP_DEATHS = 5,
  // While nothing is served, this often it is looked whether anything is still mounted.
  LOOK_MS = 1000,
  ARGUMENTS_MAX = 16,
  EXIT_RESTART = 75, // EX_TEMPFAIL: the daemon asks to be started again, for an upgrade
};

static char** argv_now;            // what is started
static char** argv_before;         // what was started before an upgrade that has not shown yet that it works
static char argument_bytes[2][8192];
static char* argument_lists[2][ARGUMENTS_MAX + 1];
static unsigned next_list;
static bool is_ready;              // this daemon has said so

static long long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  // The form of the daemon's own log, which goes to the same file. The text holds numbers and our own words.
  fprintf(stderr, "{\"level\":\"warn\",\"time\":%lld,\"msg\":\"keeper: %s\"}\n", t.tv_sec * 1000LL + t.tv_nsec / 1000000, text);
}

static void on_ready(void) {
  is_ready = true;
  argv_before = NULL;
}

static void on_program(const char* arguments, size_t bytes) {
  char* const text = argument_bytes[next_list];
  char** const list = argument_lists[next_list];
  if (bytes == 0 || bytes >= sizeof argument_bytes[0]) return;
  memcpy(text, arguments, bytes);
  text[bytes] = 0;
  size_t count = 0;
  for (size_t at = 0; at < bytes && count < ARGUMENTS_MAX; at += strlen(text + at) + 1) list[count++] = text + at;
  list[count] = NULL;
  if (count == 0 || list[0][0] != '/') return;
  next_list ^= 1;
  argv_before = argv_now;
  argv_now = list;
}

static const struct notify_handler handler = {.on_ready = on_ready, .on_program = on_program};

// Waits for the daemon's end. Returns its wait status.
static int serve(pid_t daemon, int notify, int signals, bool* stop) {
  for (;;) {
    struct pollfd wait[2] = {{.fd = notify, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) abort();
    notify_drain(notify, daemon, &handler);
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) {
        *stop = true;
        kill(daemon, (int)info.ssi_signo);
      } else if (info.ssi_signo == SIGHUP || info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2) {
        kill(daemon, (int)info.ssi_signo);
      }
    }
    int status;
    // Other children cannot be: what the daemon started is reparented to init, not to us.
    if (waitpid(daemon, &status, WNOHANG) == daemon) {
      // What it said before it died counts.
      notify_drain(notify, daemon, &handler);
      return status;
    }
  }
}

// Waits before the next start. False when meanwhile nothing is mounted any more.
static bool pause_ms(long long ms, int signals, bool* stop) {
  const long long end = now_ms() + ms;
  for (;;) {
    if (store_all_mounts_gone()) return false;
    const long long left = end - now_ms();
    if (left <= 0 || *stop) return true;
    struct pollfd wait = {.fd = signals, .events = POLLIN};
    poll(&wait, 1, (int)(left < LOOK_MS ? left : LOOK_MS));
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
      if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) *stop = true;
  }
}

// The last process to be ended for want of memory: it has hardly any, and a daemon that is ended is started again. Returns what the
// daemon is to have.
static int spare_from_oom(void) {
  int before = 0;
  FILE* file = fopen("/proc/self/oom_score_adj", "r+e");
  if (!file) return 0;
  if (fscanf(file, "%d", &before) != 1) before = 0;
  // Who may not, as an ordinary user, is as safe as before.
  rewind(file);
  fprintf(file, "-1000");
  fclose(file);
  return before;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: ocifs-keeper PROGRAM [ARGUMENT...]\n");
    return 2;
  }
  prctl(PR_SET_NAME, "ocifs-keeper");
  // Nobody may read what is said here any more, which is no reason to let mounts go.
  signal(SIGPIPE, SIG_IGN);
  // Whoever starts a daemon that serves nothing yet waits for no word of it; then the number is free for a descriptor of ours.
  const bool has_readiness = fcntl(3, F_GETFD) >= 0;
  argv_now = argv + 1;
  // Each mount costs a few descriptors.
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  struct start start = {.oom_score_adjust = spare_from_oom()};
  sigset_t mine, before;
  sigemptyset(&mine);
  for (const int* s = (const int[]){SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, 0}; *s; s++) sigaddset(&mine, *s);
  sigprocmask(SIG_BLOCK, &mine, &before);
  const int signals = signalfd(-1, &mine, SFD_CLOEXEC | SFD_NONBLOCK);
  char address[128];
  const int notify = notify_open(address, sizeof address);
  if (signals < 0 || notify < 0) {
    perror("ocifs-keeper");
    return 1;
  }

  start.notify_address = address;
  start.signals = &before;
  bool stop = false;
  unsigned deaths = 0;
  long long pause = PAUSE_FIRST_MS;
  for (;; start.restarts++) {
    is_ready = false;
    start.argv = argv_now;
    start.stop = stop;
    const long long started = now_ms();
    const pid_t daemon = program_start(&start);
    if (start.restarts == 0) {
      // The orders and the readiness pipe are the daemon's: whoever waits at their other ends must see it go.
      const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (null < 0 || dup2(null, 0) < 0) return 1;
      close(null);
      if (has_readiness) close(3);
    }
    if (daemon < 0) {
      say("cannot start the daemon: errno %d", errno);
    } else {
      const int status = serve(daemon, notify, signals, &stop);
      const bool asked = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_RESTART;
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
      if (store_count() == 0) return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      if (asked) {
        deaths = 0;
        pause = 0;
      } else {
        if (WIFSIGNALED(status))
          say("daemon %d ended by signal %d; starting it again", (int)daemon, WTERMSIG(status));
        else
          say("daemon %d ended with exit code %d; starting it again", (int)daemon, WEXITSTATUS(status));
        if (argv_before && !is_ready) {
          say("the new version did not get ready; going back to the one before");
          argv_now = argv_before;
          argv_before = NULL;
        }
        if (is_ready && now_ms() - started >= STEADY_MS) {
          deaths = 0;
          pause = 0;
        } else {
          pause = deaths == 0 ? 0 : pause == 0 ? PAUSE_FIRST_MS : pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
          deaths++;
          if (deaths % LOOP_DEATHS == 0) say("crash loop: %u deaths in a row; next start in %lld ms", deaths, pause);
        }
      }
    }
    // Three tries at ending are enough; then the kernel ends what is left with our descriptors. Not what fails open without them.
    if (stop && deaths >= 3 && !store_guards_reads()) return 1;
    if (store_all_mounts_gone() || !pause_ms(pause, signals, &stop)) return 0;
  }
}
