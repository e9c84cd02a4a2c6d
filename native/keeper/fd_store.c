#include "fd_store.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

static struct {
  int fd;
  char name[STORE_NAME_MAX + 1];
} kept[STORE_MAX];
static size_t count;

// What LISTEN_FDNAMES can carry: printable ASCII without the colon that separates names.
static bool is_name(const char* name) {
  const size_t length = strlen(name);
  if (length == 0 || length > STORE_NAME_MAX) return false;
  for (const char* c = name; *c; c++)
    if (*c <= ' ' || *c > '~' || *c == ':') return false;
  return true;
}

bool store_add(const char* name, int fd) {
  if (!is_name(name) || count == STORE_MAX) {
    close(fd);
    return false;
  }
  kept[count].fd = fd;
  strcpy(kept[count].name, name);
  count++;
  return true;
}

void store_remove(const char* name) {
  size_t left = 0;
  for (size_t i = 0; i < count; i++) {
    if (strcmp(kept[i].name, name) == 0)
      close(kept[i].fd);
    else
      kept[left++] = kept[i];
  }
  count = left;
}

size_t store_count(void) { return count; }
int store_fd(size_t i) { return kept[i].fd; }
const char* store_name(size_t i) { return kept[i].name; }

static bool ends_with(size_t i, const char* suffix) {
  const size_t length = strlen(kept[i].name), wanted = strlen(suffix);
  return length >= wanted && strcmp(kept[i].name + length - wanted, suffix) == 0;
}

bool store_guards_reads(void) {
  for (size_t i = 0; i < count; i++)
    if (ends_with(i, ".events")) return true;
  return false;
}

bool store_all_mounts_gone(void) {
  bool any = false;
  if (store_guards_reads()) return false;
  for (size_t i = 0; i < count; i++) {
    if (!ends_with(i, ".fuse")) continue;
    any = true;
    struct pollfd p = {.fd = kept[i].fd, .events = 0};
    if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLERR)) return false;
  }
  return any;
}
