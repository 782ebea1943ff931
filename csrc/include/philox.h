// Philox4x32-10: four random words from a key and a counter, nothing kept (Salmon, Moraes, Dror & Shaw 2011,
// "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include "numerics.h"

namespace betavae_fast {

struct Words {
  uint32_t w0, w1, w2, w3;
};

// What (seed, stream) names: one endless sequence of noise.
struct NoiseKey {
  uint64_t seed, stream;
};

constexpr uint32_t philox_multiplier0 = 0xD2511F53u, philox_multiplier1 = 0xCD9E8D57u;
constexpr uint32_t philox_weyl0 = 0x9E3779B9u, philox_weyl1 = 0xBB67AE85u;

BVF_INLINE Words philox(NoiseKey key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(key.stream), c3 = static_cast<uint32_t>(key.stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = wide_product(philox_multiplier0, c0), product1 = wide_product(philox_multiplier1, c2);
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += philox_weyl0;
    k1 += philox_weyl1;
  }
  return {c0, c1, c2, c3};
}

}  // namespace betavae_fast
