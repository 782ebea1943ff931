// Draws a run of the noise sequence into a buffer in L1. The words and normals are those of csrc/include, computed many
// Philox blocks at a time.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../include/normal.h"

namespace betavae_fast::BVF_ISA {

#if defined(__SSE2__)

// Philox needs 32 x 32 -> 64 bit products. Compilers do not find the instruction that multiplies the low halves of
// 64-bit lanes, so it is called as an intrinsic (one Zen 3 thread with AVX2: 0.6 ns per word, against 2.0 ns for the
// scalar function vectorised by g++ 12). The instruction ignores the high halves, so words can stay in 64-bit lanes
// whatever those halves hold.
#if defined(__AVX512F__)
constexpr int lanes = 8;
using Lanes = __m512i;
constexpr int most_chains = 6;
BVF_INLINE Lanes multiply_low(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
// A shuffle and not a shift: two of a core's execution ports take vectors as wide as these, and only one of them
// shifts.
BVF_INLINE Lanes high_halves(Lanes a) { return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0xF5)); }
BVF_INLINE void store_low(Lanes a, Lanes b, uint32_t* out) {
  _mm512_storeu_ps(out, _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88));
}
#elif defined(__AVX2__)
constexpr int lanes = 4;
using Lanes = __m256i;
constexpr int most_chains = 4;
BVF_INLINE Lanes multiply_low(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
BVF_INLINE Lanes high_halves(Lanes a) { return _mm256_srli_epi64(a, 32); }
BVF_INLINE void store_low(Lanes a, Lanes b, uint32_t* out) {
  _mm256_storeu_ps(reinterpret_cast<float*>(out),
                   _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
#else
constexpr int lanes = 2;
using Lanes = __m128i;
constexpr int most_chains = 4;
BVF_INLINE Lanes multiply_low(Lanes a, Lanes b) { return _mm_mul_epu32(a, b); }
BVF_INLINE Lanes high_halves(Lanes a) { return _mm_srli_epi64(a, 32); }
BVF_INLINE void store_low(Lanes a, Lanes b, uint32_t* out) {
  _mm_storeu_ps(reinterpret_cast<float*>(out), _mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0x88));
}
#endif
typedef uint64_t U64 __attribute__((vector_size(lanes * 8)));

// Several independent vectors of Philox blocks hide the latency of the multiplication: as many as the registers hold,
// but four at the end of a run.
constexpr int fewest_chains = 4;
constexpr int fewest_blocks = fewest_chains * lanes, most_blocks = most_chains * lanes;

struct KeySchedule {
  U64 k0[10], k1[10];
  U64 stream_low, stream_high;

  explicit KeySchedule(NoiseKey key) : stream_low(U64{} + key.stream), stream_high(U64{} + (key.stream >> 32)) {
    uint32_t seed_low = static_cast<uint32_t>(key.seed), seed_high = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, seed_low += philox_weyl0, seed_high += philox_weyl1) {
      k0[round] = U64{} + seed_low;
      k1[round] = U64{} + seed_high;
    }
  }
};

template <int chains>
BVF_INLINE void philox_chains(const KeySchedule& key, uint64_t block, uint32_t* w0, uint32_t* w1, uint32_t* w2,
                              uint32_t* w3) {
  const U64 multiplier0 = U64{} + philox_multiplier0, multiplier1 = U64{} + philox_multiplier1;
  // store_low() takes two lanes at a time from each vector of a pair in turn. The blocks 0 1 4 5 ... are therefore in
  // the first vector, and 2 3 6 7 ... in the second.
  U64 first = U64{} + block;
  for (int lane = 0; lane < lanes; ++lane) first[lane] += static_cast<uint64_t>(lane + lane / 2 * 2);
  U64 c0[chains], c1[chains], c2[chains], c3[chains];
  for (int chain = 0; chain < chains; ++chain) {
    c0[chain] = first + static_cast<uint64_t>(chain / 2 * 2 * lanes + chain % 2 * 2);
    c1[chain] = c0[chain] >> 32;
    c2[chain] = key.stream_low;
    c3[chain] = key.stream_high;
  }
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 6
    for (int chain = 0; chain < chains; ++chain) {
      const U64 product0 = (U64)multiply_low((Lanes)multiplier0, (Lanes)c0[chain]);
      const U64 product1 = (U64)multiply_low((Lanes)multiplier1, (Lanes)c2[chain]);
      c0[chain] = (product1 >> 32) ^ c1[chain] ^ key.k0[round];
      c1[chain] = product1;
      c2[chain] = (U64)high_halves((Lanes)product0) ^ c3[chain] ^ key.k1[round];
      c3[chain] = product0;
    }
  }
#pragma GCC unroll 3
  for (int chain = 0; chain < chains; chain += 2) {
    store_low((Lanes)c0[chain], (Lanes)c0[chain + 1], w0 + chain * lanes);
    store_low((Lanes)c1[chain], (Lanes)c1[chain + 1], w1 + chain * lanes);
    store_low((Lanes)c2[chain], (Lanes)c2[chain + 1], w2 + chain * lanes);
    store_low((Lanes)c3[chain], (Lanes)c3[chain + 1], w3 + chain * lanes);
  }
}

// Draws at least `needed` blocks, and less than most_blocks more.
inline void philox_run(const KeySchedule& key, uint64_t first, int64_t needed, uint32_t* w0, uint32_t* w1, uint32_t* w2,
                       uint32_t* w3) {
  int64_t b = 0;
  for (; needed - b > fewest_blocks; b += most_blocks)
    philox_chains<most_chains>(key, first + static_cast<uint64_t>(b), w0 + b, w1 + b, w2 + b, w3 + b);
  if (b < needed) philox_chains<fewest_chains>(key, first + static_cast<uint64_t>(b), w0 + b, w1 + b, w2 + b, w3 + b);
}

#else

constexpr int most_blocks = 1;
using KeySchedule = NoiseKey;

inline void philox_run(NoiseKey key, uint64_t first, int64_t needed, uint32_t* w0, uint32_t* w1, uint32_t* w2,
                       uint32_t* w3) {
  for (int64_t b = 0; b < needed; ++b) {
    const Words w = philox(key, first + static_cast<uint64_t>(b));
    w0[b] = w.w0, w1[b] = w.w1, w2[b] = w.w2, w3[b] = w.w3;
  }
}

#endif

// A buffer for `elements` normals that may begin and end inside a Philox block.
template <int64_t elements>
struct NormalBuffer {
  static constexpr int64_t blocks = ((elements + 6) / 4 + most_blocks + 15) / 16 * 16;
  uint32_t words[4][blocks];
  float radii[2][blocks];
  float normals[4 * blocks];

  // Draws the elements from first to first + count - 1 of the sequence; count <= elements.
  const float* fill(const KeySchedule& key, uint64_t first, int64_t count) {
    const int64_t skip = static_cast<int64_t>(first % 4), needed = (skip + count + 3) / 4;
    philox_run(key, first / 4, needed, words[0], words[1], words[2], words[3]);
    // Radii and pairs are computed in two loops: with half the operations each, more of their iterations overlap (1.5
    // instead of 1.9 cycles per normal, one Zen 3 thread).
    for (int64_t b = 0; b < needed; ++b) {
      radii[0][b] = normal_radius(words[0][b]);
      radii[1][b] = normal_radius(words[2][b]);
    }
    for (int64_t b = 0; b < needed; ++b) {
      const NormalPair low = normal_pair(radii[0][b], words[1][b]), high = normal_pair(radii[1][b], words[3][b]);
      normals[4 * b] = low.first;
      normals[4 * b + 1] = low.second;
      normals[4 * b + 2] = high.first;
      normals[4 * b + 3] = high.second;
    }
    return normals + skip;
  }
};

}  // namespace betavae_fast::BVF_ISA
