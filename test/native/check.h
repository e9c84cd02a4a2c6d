// What the native tests have in common.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../native/base/status.h"

#define CHECK(what)                                                          \
  do {                                                                       \
    if (!(what)) {                                                           \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #what); \
      std::exit(1);                                                          \
    }                                                                        \
  } while (0)

inline void CheckCode(const ocifs::Status& s, const std::string& code, const char* file, int line) {
  if (s.code == code) return;
  std::fprintf(stderr, "%s:%d: \"%s\" (%s) instead of \"%s\"\n", file, line, s.code, s.message.c_str(), code.c_str());
  std::exit(1);
}
#define OK(status) CheckCode(status, "", __FILE__, __LINE__)
#define FAILS(status, code) CheckCode(status, code, __FILE__, __LINE__)

// A directory that goes with everything in it (files only).
class TempDirectory {
 public:
  TempDirectory() {
    char name[] = "/tmp/ocifs-native-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    path = name;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() { CHECK(std::system(("rm -rf " + path).c_str()) == 0); }
  int Open(const std::string& name) const {
    const int fd = open((path + "/" + name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    return fd;
  }
  std::string path;
};
