// Descriptors kept under names for the next daemon, as systemd's file descriptor store keeps them (sd_notify(3), FDSTORE=1).
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum {
  STORE_MAX = 4096,    // a daemon keeps a handful a mount; below the usual hard limit of open files
  STORE_NAME_MAX = 64, // the daemon's names are of this length at the most; systemd allows 255
};

// Takes the descriptor over. False, with the descriptor closed, when the name is no name or the store is full.
bool store_add(const char* name, int fd);
// Closes all of this name.
void store_remove(const char* name);
size_t store_count(void);
int store_fd(size_t i);
const char* store_name(size_t i);
// A FUSE connection is gone (unmounted or aborted) when poll(2) reports an error on its descriptor. Names that end in ".fuse"
// are such. True when there were some and all of them are gone: nothing is left to be served. Of a fanotify group only a daemon can tell.
bool store_all_mounts_gone(void);
// A fanotify group is kept, by a name that ends in ".events": while it has an owner, the kernel reads nothing that is not there. Its last
// owner must not end before the mount.
bool store_guards_reads(void);
