// Philox4x32-10 computes four random words from a key and a counter, without any state (Salmon, Moraes, Dror & Shaw
// 2011, "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include "numerics.h"

namespace betavae_fast {

struct Words {
  uint32_t w0, w1, w2, w3;
};

// The key of one endless noise sequence.
struct NoiseKey {
  uint64_t seed, stream;
};

constexpr uint32_t philox_multiplier0 = 0xD2511F53u, philox_multiplier1 = 0xCD9E8D57u;
constexpr uint32_t philox_weyl0 = 0x9E3779B9u, philox_weyl1 = 0xBB67AE85u;

constexpr int philox_rounds = 10;

// The values that all Philox blocks of a sequence share: the keys of every round, and the product of the stream in the
// first round.
struct RoundKeys {
  uint32_t k0[philox_rounds], k1[philox_rounds];
  uint32_t stream_product_low, stream_product_high, stream_high;
};

BVF_INLINE RoundKeys round_keys(NoiseKey key) {
  RoundKeys keys;
  for (uint32_t round = 0; round < philox_rounds; ++round) {
    keys.k0[round] = static_cast<uint32_t>(key.seed) + round * philox_weyl0;
    keys.k1[round] = static_cast<uint32_t>(key.seed >> 32) + round * philox_weyl1;
  }
  const uint64_t product = wide_product(philox_multiplier1, static_cast<uint32_t>(key.stream));
  keys.stream_product_low = static_cast<uint32_t>(product);
  keys.stream_product_high = static_cast<uint32_t>(product >> 32);
  keys.stream_high = static_cast<uint32_t>(key.stream >> 32);
  return keys;
}

BVF_INLINE Words philox(const RoundKeys& keys, uint64_t block) {
  // The first round, applied to the counter (block low, block high, stream low, stream high).
  const uint64_t product = wide_product(philox_multiplier0, static_cast<uint32_t>(block));
  uint32_t c0 = keys.stream_product_high ^ static_cast<uint32_t>(block >> 32) ^ keys.k0[0];
  uint32_t c1 = keys.stream_product_low;
  uint32_t c2 = static_cast<uint32_t>(product >> 32) ^ keys.stream_high ^ keys.k1[0];
  uint32_t c3 = static_cast<uint32_t>(product);
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif !defined(__CUDACC__)
#pragma GCC unroll 9
#endif
  for (int round = 1; round < philox_rounds; ++round) {
    const uint64_t product0 = wide_product(philox_multiplier0, c0), product1 = wide_product(philox_multiplier1, c2);
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ keys.k0[round];
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ keys.k1[round];
    c3 = static_cast<uint32_t>(product0);
  }
  return {c0, c1, c2, c3};
}

BVF_INLINE Words philox(NoiseKey key, uint64_t block) { return philox(round_keys(key), block); }

}  // namespace betavae_fast
