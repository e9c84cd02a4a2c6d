// Faults on purpose: what the sanitizers are for. scripts/native-core.sh runs it to prove that they are on.
#include <climits>
#include <cstdio>
#include <cstring>
#include <thread>

namespace {

int shared_without_lock = 0;

void Overflow(size_t size) {
  char* p = new char[size];
  p[size] = 1;
  std::printf("%d\n", p[size]);
  delete[] p;
}

void Race() {
  std::thread other([] { shared_without_lock++; });
  shared_without_lock++;
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  const char* fault = argc > 1 ? argv[1] : "";
  if (std::strcmp(fault, "address") == 0) Overflow(static_cast<size_t>(argc));
  if (std::strcmp(fault, "undefined") == 0) std::printf("%d\n", INT_MAX + argc);
  if (std::strcmp(fault, "thread") == 0) Race();
  return 0;
}
