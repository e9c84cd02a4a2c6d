/* What the benchmarks need below Node: readers that cost little themselves, and the peak memory of a child.
 *
 *   tool seq FILE OFFSET LENGTH [hash]              reads a range in 128 KiB steps, as cat(1) does
 *   tool random FILE COUNT THREADS SEED MODE [hash] reads COUNT different blocks of 4 KiB; MODE is buffered,
 *                                                   advised (the same with POSIX_FADV_RANDOM: no readahead), direct
 *                                                   (O_DIRECT) or cached (whatever the page cache has may be used)
 *   tool tree DIR                                   reads every file below DIR, once, in the order of its directories
 *   tool forget PATH...                             drops what the page cache holds of files, and of all files below
 *                                                   directories, mounts left out
 *   tool run PROGRAM [ARG...]                       runs it with its own standard streams; result goes to descriptor 3
 *
 * Prints one JSON object. The hash depends on offsets and bytes, not on order or threads. Exits 1 with a sentence on any error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kBlock = 4096, kStep = 128 << 10, kThreadsMax = 64 };

static void die(const char *what, const char *object) {
  fprintf(stderr, "tool: %s %s: %s\n", what, object, errno ? strerror(errno) : "ends early");
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t number(const char *text) {
  char *end;
  errno = 0;
  uint64_t value = strtoull(text, &end, 10);
  if (errno || *end || end == text) {
    fprintf(stderr, "tool: '%s' is not a number\n", text);
    exit(2);
  }
  return value;
}

static uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

/* Sum over 8-byte words, each mixed with its place in the file; the last word may be short. */
static uint64_t hash_bytes(const uint8_t *bytes, size_t size, uint64_t offset) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
    sum += mix(word + mix(offset + i + 1));
  }
  return sum;
}

static void *aligned_buffer(size_t size) {
  void *p = NULL;
  if (posix_memalign(&p, 4096, size)) die("allocate", "buffer");
  return p;
}

static int run_seq(const char *path, uint64_t offset, uint64_t length, int hash) {
  uint8_t *buffer = aligned_buffer(kStep);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open", path);
  posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  uint64_t done = 0, sum = 0, begin = now_ns();
  while (done < length) {
    size_t want = length - done < kStep ? length - done : kStep;
    errno = 0;
    ssize_t n = pread(fd, buffer, want, (off_t)(offset + done));
    if (n <= 0) die("read", path);
    /* Relative offsets: the same bytes elsewhere give the same hash. */
    if (hash) sum += hash_bytes(buffer, (size_t)n, done);
    done += (uint64_t)n;
  }
  printf("{\"ns\":%llu,\"bytes\":%llu,\"hash\":\"%016llx\"}\n", (unsigned long long)(now_ns() - begin),
         (unsigned long long)done, (unsigned long long)sum);
  return 0;
}

struct job {
  const char *path;
  int fd;
  const uint32_t *blocks;
  size_t count;
  int hash;
  uint64_t sum;
};

static void *run_job(void *argument) {
  struct job *job = argument;
  uint8_t *buffer = aligned_buffer(kBlock);
  for (size_t i = 0; i < job->count; i++) {
    uint64_t offset = (uint64_t)job->blocks[i] * kBlock;
    errno = 0;
    if (pread(job->fd, buffer, kBlock, (off_t)offset) != kBlock) die("read", job->path);
    if (job->hash) job->sum += hash_bytes(buffer, kBlock, offset);
  }
  free(buffer);
  return NULL;
}

static int run_random(const char *path, uint64_t count, uint64_t threads, uint64_t seed, const char *mode, int hash) {
  int direct = strcmp(mode, "direct") == 0, advised = strcmp(mode, "advised") == 0, cached = strcmp(mode, "cached") == 0;
  if ((!direct && !advised && !cached && strcmp(mode, "buffered") != 0) || threads < 1 || threads > kThreadsMax) {
    fprintf(stderr, "tool: bad mode or number of threads\n");
    return 2;
  }
  int fd = open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
  if (fd < 0) die("open", path);
  struct stat st;
  if (fstat(fd, &st) < 0) die("stat", path);
  uint64_t total = (uint64_t)st.st_size / kBlock;
  if (count > total || total > UINT32_MAX) {
    fprintf(stderr, "tool: %s has %llu blocks\n", path, (unsigned long long)total);
    return 2;
  }
  /* Every block at most once, so that none is in the page cache because of this run. */
  uint32_t *blocks = malloc(total * sizeof *blocks);
  if (!blocks) die("allocate", "blocks");
  for (uint64_t i = 0; i < total; i++) blocks[i] = (uint32_t)i;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t j = i + mix(seed * 1000003u + i) % (total - i);
    uint32_t other = blocks[i];
    blocks[i] = blocks[j];
    blocks[j] = other;
  }
  /* Nor because of an earlier one. */
  if (!cached && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) die("forget the pages of", path);
  if ((advised || cached) && posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM)) die("advise on", path);
  struct job jobs[kThreadsMax];
  pthread_t ids[kThreadsMax];
  uint64_t begin = now_ns(), sum = 0;
  for (uint64_t t = 0; t < threads; t++) {
    uint64_t from = count * t / threads, to = count * (t + 1) / threads;
    jobs[t] = (struct job){path, fd, blocks + from, to - from, hash, 0};
    if ((errno = pthread_create(&ids[t], NULL, run_job, &jobs[t]))) die("start", "thread");
  }
  for (uint64_t t = 0; t < threads; t++) {
    pthread_join(ids[t], NULL);
    sum += jobs[t].sum;
  }
  printf("{\"ns\":%llu,\"bytes\":%llu,\"hash\":\"%016llx\"}\n", (unsigned long long)(now_ns() - begin),
         (unsigned long long)(count * kBlock), (unsigned long long)sum);
  return 0;
}

/* The path counts, and each file's bytes; hard links are files of their own. */
static int run_tree(char *directory) {
  char *roots[] = {directory, NULL};
  uint8_t *buffer = aligned_buffer(kStep);
  uint64_t bytes = 0, sum = 0, begin = now_ns();
  FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
  if (!fts) die("open", directory);
  const size_t prefix = strlen(directory);
  for (FTSENT *entry; (errno = 0, entry = fts_read(fts)) != NULL;) {
    if (entry->fts_info == FTS_ERR || entry->fts_info == FTS_DNR || entry->fts_info == FTS_NS) {
      errno = entry->fts_errno;
      die("walk", entry->fts_path);
    }
    if (entry->fts_info != FTS_F) continue;
    int fd = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) die("open", entry->fts_path);
    const char *name = entry->fts_path + prefix;
    uint64_t offset = 0, file = hash_bytes((const uint8_t *)name, strlen(name), 1ull << 40);
    for (;;) {
      ssize_t n = read(fd, buffer, kStep);
      if (n < 0) die("read", entry->fts_path);
      if (n == 0) break;
      file += hash_bytes(buffer, (size_t)n, offset);
      offset += (uint64_t)n;
    }
    close(fd);
    bytes += offset;
    sum += mix(file + offset);
  }
  if (errno) die("walk", directory);
  fts_close(fts);
  printf("{\"ns\":%llu,\"bytes\":%llu,\"hash\":\"%016llx\"}\n", (unsigned long long)(now_ns() - begin),
         (unsigned long long)bytes, (unsigned long long)sum);
  return 0;
}

/* Dirty pages must have been written out before: they stay. */
static int run_forget(char **roots) {
  FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
  if (!fts) die("open", roots[0]);
  for (FTSENT *entry; (errno = 0, entry = fts_read(fts)) != NULL;) {
    /* Files that went away meanwhile are forgotten already. */
    if (entry->fts_info != FTS_F) continue;
    int fd = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) die("open", entry->fts_path);
    if (fd < 0) continue;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
  if (errno) die("walk", roots[0]);
  fts_close(fts);
  return 0;
}

static int run_child(char **argv) {
  if (fcntl(3, F_SETFD, FD_CLOEXEC) < 0) die("use", "descriptor 3");
  uint64_t begin = now_ns();
  pid_t pid = fork();
  if (pid < 0) die("fork for", argv[0]);
  if (pid == 0) {
    execvp(argv[0], argv);
    die("start", argv[0]);
  }
  int status;
  struct rusage usage;
  while (wait4(pid, &status, 0, &usage) < 0)
    if (errno != EINTR) die("wait for", argv[0]);
  dprintf(3, "{\"ns\":%llu,\"peakRssBytes\":%llu,\"cpuNs\":%llu}\n", (unsigned long long)(now_ns() - begin),
          (unsigned long long)usage.ru_maxrss * 1024,
          (unsigned long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
              (unsigned long long)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv) {
  const int hash = argc > 1 && strcmp(argv[argc - 1], "hash") == 0;
  if (argc >= 3 && strcmp(argv[1], "run") == 0) return run_child(argv + 2);
  if (argc >= 3 && strcmp(argv[1], "forget") == 0) return run_forget(argv + 2);
  if (argc == 3 && strcmp(argv[1], "tree") == 0) return run_tree(argv[2]);
  if (argc == 5 + hash && strcmp(argv[1], "seq") == 0) return run_seq(argv[2], number(argv[3]), number(argv[4]), hash);
  if (argc == 7 + hash && strcmp(argv[1], "random") == 0)
    return run_random(argv[2], number(argv[3]), number(argv[4]), number(argv[5]), argv[6], hash);
  fprintf(stderr, "usage: see the head of tool.c\n");
  return 2;
}
