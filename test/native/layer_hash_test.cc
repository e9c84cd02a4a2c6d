// The pair of SHA-256 sums and the layer hash over it, beside libcrypto's one by one.
#include "../../native/hash/layer_hash.h"

#include <random>
#include <vector>

#include "../../native/base/sha256.h"
#include "check.h"

using namespace ocifs;

namespace {

std::array<uint8_t, 32> Sum(const uint8_t* data, size_t size) {
  Sha256 sha;
  sha.Update(data, size);
  return sha.Final();
}

// Pieces and borders at any byte: each sum is that of its bytes, with the CPU's instructions and without.
void TestPair(bool accelerated) {
  std::mt19937 random(7);
  std::vector<uint8_t> bytes(20000);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  for (int run = 0; run < 300; run++) {
    Sha256Pair pair(accelerated);
    size_t begins[2] = {0, 0};
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::min<size_t>(random() % 700, bytes.size() - at);
      pair.Update(bytes.data() + at, size);
      at += size;
      if (random() % 4 != 0) continue;
      const auto lane = static_cast<Sha256Pair::Lane>(random() % 2);
      CHECK(pair.End(lane) == Sum(bytes.data() + begins[lane], at - begins[lane]));
      begins[lane] = at;
    }
  }
}

void TestLayerHash(bool accelerated) {
  std::vector<uint8_t> bytes(5000);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(i * 7);
  LayerHash hash(accelerated);
  OK(hash.Update(bytes.data(), 1000, {0, 64, 999}));
  OK(hash.Update(bytes.data() + 1000, 0, {1000}));
  OK(hash.Update(bytes.data() + 1000, 4000, {5000}));  // the last span is empty
  hash.Finish();
  CHECK(hash.digest() == Sum(bytes.data(), bytes.size()));
  const size_t borders[] = {0, 64, 999, 1000, 5000, 5000};
  CHECK(hash.span_digests().size() == 5 * 32);
  for (size_t i = 0; i < 5; i++) {
    const auto want = Sum(bytes.data() + borders[i], borders[i + 1] - borders[i]);
    CHECK(std::equal(want.begin(), want.end(), hash.span_digests().begin() + static_cast<ptrdiff_t>(32 * i)));
  }
  LayerHash none(accelerated);
  none.Finish();
  CHECK(none.span_digests().empty() && none.digest() == Sum(bytes.data(), 0));
  LayerHash wrong(accelerated);
  OK(wrong.Update(bytes.data(), 100, {}));
  for (const std::vector<uint64_t>& starts : {std::vector<uint64_t>{99}, {201}, {150, 140}})
    CHECK(!wrong.Update(bytes.data(), 100, starts).ok());
}

}  // namespace

int main() {
  for (const bool accelerated : {true, false}) {
    TestPair(accelerated);
    TestLayerHash(accelerated);
  }
  std::printf("ok\n");
}
