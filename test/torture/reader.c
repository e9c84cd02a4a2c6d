/*
 * Reads files of a mount at random and compares every byte with what the seed says it must be.
 *
 *   reader DIRECTORY SEED FILES FILE_BYTES SECONDS ORDER
 *
 * Content: the 32-bit word k of file f is word(seed, f, k), little-endian; see content.ts, which makes the same. ORDER seeds the
 * places that are read. Each read is an open, a read of up to 128 KiB, a look at every byte, and an advice to forget the pages, so
 * that the next one asks the file system again. At its end, or at SIGTERM, one JSON line tells what came of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kMaxRead = 128 << 10, kErrnos = 256 };

static volatile sig_atomic_t stopped;
static void stop(int signal) { (void)signal; stopped = 1; }

static uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

/* Six bits of each byte are random: deflate has something to do. */
static uint8_t byte_at(uint32_t seed, uint32_t file, uint64_t offset) {
  const uint32_t word = mix(mix(mix(seed) + file) + (uint32_t)(offset >> 2)) & 0x3f3f3f3fu;
  return (uint8_t)(word >> (8 * (offset & 3)));
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static uint32_t random_state;
static uint32_t next_random(void) { return random_state = mix(random_state + 0x9e3779b9u); }

int main(int argc, char** argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: reader DIRECTORY SEED FILES FILE_BYTES SECONDS ORDER\n");
    return 2;
  }
  const uint32_t seed = (uint32_t)strtoul(argv[2], NULL, 10), files = (uint32_t)strtoul(argv[3], NULL, 10);
  const uint64_t file_bytes = strtoull(argv[4], NULL, 10);
  const double until = now_ms() + strtod(argv[5], NULL) * 1e3;
  random_state = mix((uint32_t)strtoul(argv[6], NULL, 10));
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);

  static uint8_t buffer[kMaxRead];
  static uint64_t errors[kErrnos];
  uint64_t reads = 0, bytes = 0, wrong = 0;
  double slowest_ok = 0, slowest_error = 0;
  while (!stopped && now_ms() < until) {
    const uint32_t file = next_random() % files;
    const uint64_t offset = next_random() % file_bytes;
    uint64_t size = 1 + next_random() % kMaxRead;
    if (size > file_bytes - offset) size = file_bytes - offset;
    char path[4096];
    snprintf(path, sizeof path, "%s/file-%" PRIu32, argv[1], file);
    double begin = now_ms(), took = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    int64_t got = fd < 0 ? -1 : 0;
    int failure = fd < 0 ? errno : 0;
    while (fd >= 0 && (uint64_t)got < size) {
      begin = now_ms();
      const ssize_t n = pread(fd, buffer + got, size - (uint64_t)got, (off_t)(offset + (uint64_t)got));
      took = now_ms() - begin; /* of one system call: each may wait as long as the timeout says */
      if (n >= 0 && took > slowest_ok) slowest_ok = took;
      if (n > 0) {
        got += n;
        continue;
      }
      failure = n < 0 ? errno : ENODATA; /* an end of file in its middle */
      break;
    }
    if (fd < 0) took = now_ms() - begin;
    /* What came before an error must be right as well. */
    for (int64_t i = 0; i < got; i++)
      if (buffer[i] != byte_at(seed, file, offset + (uint64_t)i)) {
        if (wrong++ == 0) fprintf(stderr, "wrong byte at %" PRIu64 " of %s\n", offset + (uint64_t)i, path);
        break;
      }
    if (failure != 0) {
      errors[failure < kErrnos ? failure : 0]++;
      if (took > slowest_error) slowest_error = took;
      usleep(20000); /* what cannot be opened at all would be tried a million times */
    } else {
      reads++;
      bytes += (uint64_t)got;
    }
    if (fd >= 0) {
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      close(fd);
    }
  }
  printf("{\"reads\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"wrong\":%" PRIu64, reads, bytes, wrong);
  printf(",\"slowestMs\":%.0f,\"slowestErrorMs\":%.0f,\"errors\":{", slowest_ok, slowest_error);
  const char* comma = "";
  for (int i = 0; i < kErrnos; i++)
    if (errors[i] != 0) {
      printf("%s\"%s\":%" PRIu64, comma, strerrorname_np(i) ? strerrorname_np(i) : "?", errors[i]);
      comma = ",";
    }
  printf("}}\n");
  return 0;
}
