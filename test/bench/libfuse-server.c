/* A mount by libfuse 3's low-level interface with one file, "/file": what our own session is measured against.
 *
 *   libfuse-server MOUNTPOINT memory FILE   its bytes held in memory and answered with fuse_reply_buf, as libfuse's example hello_ll does
 *   libfuse-server MOUNTPOINT file FILE     each read passed on to the file with fuse_reply_data, as its example passthrough_ll does
 *
 * Multi-threaded, a cloned descriptor for each thread, attributes cached for good: the settings that serve it best. Prints "ready" on
 * standard error; SIGTERM or an unmount ends it.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kFileIno = 2 };
static const double kForever = 1e9;
static const char kName[] = "file";

static int file_fd;
static char *memory;
static struct stat file_stat;

static int fill_stat(fuse_ino_t ino, struct stat *st) {
  memset(st, 0, sizeof *st);
  st->st_ino = ino;
  st->st_nlink = 1;
  if (ino == FUSE_ROOT_ID) {
    st->st_mode = S_IFDIR | 0755;
  } else if (ino == kFileIno) {
    st->st_mode = S_IFREG | 0444;
    st->st_size = file_stat.st_size;
  } else {
    return -1;
  }
  return 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  struct fuse_entry_param entry = {.ino = kFileIno, .attr_timeout = kForever, .entry_timeout = kForever};
  if (parent != FUSE_ROOT_ID || strcmp(name, kName) != 0) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  fill_stat(kFileIno, &entry.attr);
  fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  (void)fi;
  struct stat st;
  if (fill_stat(ino, &st))
    fuse_reply_err(req, ENOENT);
  else
    fuse_reply_attr(req, &st, kForever);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  if (ino != kFileIno) {
    fuse_reply_err(req, EISDIR);
    return;
  }
  fi->keep_cache = 1;
  fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi) {
  (void)ino;
  (void)fi;
  const size_t left = offset < file_stat.st_size ? (size_t)(file_stat.st_size - offset) : 0;
  if (size > left) size = left;
  if (memory) {
    fuse_reply_buf(req, memory + offset, size);
    return;
  }
  struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(size);
  buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
  buffer.buf[0].fd = file_fd;
  buffer.buf[0].pos = offset;
  fuse_reply_data(req, &buffer, FUSE_BUF_SPLICE_MOVE);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = do_lookup,
    .getattr = do_getattr,
    .open = do_open,
    .read = do_read,
};

static int fail(const char *what) {
  fprintf(stderr, "libfuse-server: %s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 4 || (strcmp(argv[2], "memory") != 0 && strcmp(argv[2], "file") != 0)) {
    fprintf(stderr, "usage: see the head of libfuse-server.c\n");
    return 2;
  }
  file_fd = open(argv[3], O_RDONLY | O_CLOEXEC);
  if (file_fd < 0 || fstat(file_fd, &file_stat) < 0) return fail(argv[3]);
  if (strcmp(argv[2], "memory") == 0) {
    memory = mmap(NULL, (size_t)file_stat.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file_fd, 0);
    if (memory == MAP_FAILED) return fail("mmap");
  }
  char *words[] = {argv[0], "-o", "ro,default_permissions", NULL};
  struct fuse_args args = FUSE_ARGS_INIT(3, words);
  struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
  if (!session) return 1;
  int status = 1;
  if (fuse_set_signal_handlers(session) == 0) {
    if (fuse_session_mount(session, argv[1]) == 0) {
      struct fuse_loop_config *config = fuse_loop_cfg_create();
      fuse_loop_cfg_set_clone_fd(config, 1);
      fprintf(stderr, "ready\n");
      const int result = fuse_session_loop_mt(session, config);
      /* A signal number when one ended it, as asked. */
      status = result < 0;
      fuse_loop_cfg_destroy(config);
      fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
  }
  fuse_session_destroy(session);
  fuse_opt_free_args(&args);
  return status;
}
