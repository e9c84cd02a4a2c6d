// Sparse files and byte-range locks.
#include "../../native/sparse/sparse.h"

#include <sys/wait.h>

#include <vector>

#include "check.h"

using namespace ocifs;
using namespace ocifs::sparse;

namespace {
using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
constexpr uint64_t kBlock = 4096;

Ranges Data(int fd, uint64_t begin, uint64_t end) {
  Ranges out;
  OK(DataRanges(fd, begin, end, &out));
  return out;
}

void Write(int fd, uint64_t begin, uint64_t end) {
  const std::vector<uint8_t> bytes(end - begin, 1);
  CHECK(pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(begin)) == static_cast<ssize_t>(bytes.size()));
}

void TestRanges(int fd) {
  CHECK(ftruncate(fd, 100 * kBlock + 10) == 0);
  CHECK(Data(fd, 0, 100 * kBlock + 10).empty());
  Write(fd, 3 * kBlock, 5 * kBlock);
  Write(fd, 90 * kBlock, 100 * kBlock + 10);
  CHECK((Data(fd, 0, 1 << 30) == Ranges{{3 * kBlock, 5 * kBlock}, {90 * kBlock, 100 * kBlock + 10}}));
  CHECK((Data(fd, 4 * kBlock + 1, 4 * kBlock + 2) == Ranges{{4 * kBlock + 1, 4 * kBlock + 2}}));
  CHECK(Data(fd, 5 * kBlock, 90 * kBlock).empty());
  CHECK(Data(fd, 1 << 30, 2 << 30).empty() && Data(fd, 7, 7).empty() && Data(fd, 9, 3).empty());
  OK(PunchHole(fd, 4 * kBlock, 5 * kBlock));
  OK(PunchHole(fd, 9, 9));
  OK(PunchHole(fd, 9, 3));
  // Part of a block stays, as zeros.
  OK(PunchHole(fd, 90 * kBlock, 90 * kBlock + 100));
  CHECK((Data(fd, 0, 95 * kBlock) == Ranges{{3 * kBlock, 4 * kBlock}, {90 * kBlock, 95 * kBlock}}));
  // Beyond the end: the size stays.
  OK(PunchHole(fd, 99 * kBlock, 200 * kBlock));
  CHECK(lseek(fd, 0, SEEK_END) == 100 * static_cast<off_t>(kBlock) + 10);
  OK(PunchHole(fd, 0, 101 * kBlock));
  CHECK(Data(fd, 0, 101 * kBlock).empty());
  // Every second block.
  for (uint64_t i = 0; i < 50; i++) Write(fd, 2 * i * kBlock, (2 * i + 1) * kBlock);
  const Ranges many = Data(fd, 0, 100 * kBlock);
  CHECK(many.size() == 50);
  for (uint64_t i = 0; i < 50; i++) CHECK((many[i] == std::pair{2 * i * kBlock, (2 * i + 1) * kBlock}));
}

void TestLocks(const TempDirectory& directory) {
  const int a = directory.Open("locked"), b = directory.Open("locked");
  bool got = false;
  OK(TryLock(a, 0, 10, true, &got));
  CHECK(got);
  OK(TryLock(b, 9, 11, true, &got));
  CHECK(!got);
  OK(TryLock(b, 9, 11, false, &got));
  CHECK(!got);
  OK(TryLock(b, 10, 11, true, &got));
  CHECK(got);
  OK(TryLock(a, 5, 8, true, &got));  // its own
  CHECK(got);
  OK(Unlock(a, 4, 6));
  OK(TryLock(b, 4, 6, false, &got));
  CHECK(got);
  OK(TryLock(a, 4, 6, false, &got));  // shared by both
  CHECK(got);
  OK(TryLock(a, 4, 6, true, &got));
  CHECK(!got);
  FAILS(TryLock(a, 4, 4, true, &got), "usage");
  FAILS(TryLock(a, 4, 3, true, &got), "usage");
  FAILS(Unlock(a, 4, 4), "usage");
  FAILS(TryLock(-1, 0, 1, true, &got), "io");

  // A lock goes with the last descriptor of its open file: also that of a process that was killed.
  const int c = directory.Open("locked");
  int ready[2];
  CHECK(pipe(ready) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    const int own = directory.Open("locked");
    bool locked = false;
    if (!TryLock(own, 100, 200, true, &locked).ok() || !locked) _exit(1);
    (void)!write(ready[1], "", 1);
    pause();
    _exit(0);
  }
  char byte;
  CHECK(read(ready[0], &byte, 1) == 1);
  OK(TryLock(c, 150, 151, true, &got));
  CHECK(!got);
  CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
  OK(TryLock(c, 150, 151, true, &got));
  CHECK(got);
  for (const int fd : {a, b, c, ready[0], ready[1]}) close(fd);
}
}  // namespace

int main() {
  TempDirectory directory;
  const int disk = directory.Open("sparse");
  TestRanges(disk);
  close(disk);
  int memory = -1;
  OK(MemoryFile(1 << 20, &memory));
  CHECK(lseek(memory, 0, SEEK_END) == 1 << 20);
  TestRanges(memory);
  close(memory);
  Ranges none;
  FAILS(DataRanges(-1, 0, 1, &none), "io");
  FAILS(PunchHole(-1, 0, 1), "io");
  FAILS(MemoryFile(UINT64_MAX, &memory), "io");
  TestLocks(directory);
  std::printf("ok\n");
}
