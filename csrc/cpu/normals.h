// A run of the noise sequence into an L1 buffer. Same words and normals as csrc/include, many blocks at a time.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../include/normal.h"

namespace betavae_fast::BVF_ISA {

#if defined(__SSE2__)

// Philox needs 32 x 32 -> 64 bit products. Compilers do not find the instruction that multiplies the low halves of 64-bit
// lanes (measured, one Zen 3 thread with AVX2: 2.0 ns a word for the scalar function vectorised by g++ 12, 0.7 ns so), and
// as it ignores the high halves, words can stay in 64-bit lanes with anything above them.
#if defined(__AVX512F__)
constexpr int lanes = 8;
using Lanes = __m512i;
inline __attribute__((always_inline)) Lanes multiply_low(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
#elif defined(__AVX2__)
constexpr int lanes = 4;
using Lanes = __m256i;
inline __attribute__((always_inline)) Lanes multiply_low(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
#else
constexpr int lanes = 2;
using Lanes = __m128i;
inline __attribute__((always_inline)) Lanes multiply_low(Lanes a, Lanes b) { return _mm_mul_epu32(a, b); }
#endif
typedef uint64_t U64 __attribute__((vector_size(lanes * 8)));
typedef uint32_t U32 __attribute__((vector_size(lanes * 4)));

constexpr int stride_blocks = 2 * lanes;  // two independent chains hide the latency of the multiply

inline __attribute__((always_inline)) void philox_blocks(NoiseKey key, uint64_t block, uint32_t* w0, uint32_t* w1,
                                                         uint32_t* w2, uint32_t* w3) {
  const U64 multiplier0 = U64{} + 0xD2511F53u, multiplier1 = U64{} + 0xCD9E8D57u;
  U64 first = U64{} + block;
  for (int lane = 0; lane < lanes; ++lane) first[lane] += static_cast<uint64_t>(lane);
  U64 c0[2], c1[2], c2[2], c3[2];
  for (int half = 0; half < 2; ++half) {
    c0[half] = first + static_cast<uint64_t>(half * lanes);
    c1[half] = c0[half] >> 32;
    c2[half] = U64{} + key.stream;
    c3[half] = c2[half] >> 32;
  }
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    for (int half = 0; half < 2; ++half) {
      const U64 product0 = (U64)multiply_low((Lanes)multiplier0, (Lanes)c0[half]);
      const U64 product1 = (U64)multiply_low((Lanes)multiplier1, (Lanes)c2[half]);
      c0[half] = (product1 >> 32) ^ c1[half] ^ static_cast<uint64_t>(k0);
      c1[half] = product1;
      c2[half] = (product0 >> 32) ^ c3[half] ^ static_cast<uint64_t>(k1);
      c3[half] = product0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int half = 0; half < 2; ++half) {
    const U32 words[4] = {__builtin_convertvector(c0[half], U32), __builtin_convertvector(c1[half], U32),
                          __builtin_convertvector(c2[half], U32), __builtin_convertvector(c3[half], U32)};
    __builtin_memcpy(w0 + half * lanes, &words[0], sizeof(U32));
    __builtin_memcpy(w1 + half * lanes, &words[1], sizeof(U32));
    __builtin_memcpy(w2 + half * lanes, &words[2], sizeof(U32));
    __builtin_memcpy(w3 + half * lanes, &words[3], sizeof(U32));
  }
}

#else

constexpr int stride_blocks = 1;

inline void philox_blocks(NoiseKey key, uint64_t block, uint32_t* w0, uint32_t* w1, uint32_t* w2, uint32_t* w3) {
  const Words w = philox(key, block);
  *w0 = w.w0, *w1 = w.w1, *w2 = w.w2, *w3 = w.w3;
}

#endif

// Room for `elements` normals that may begin and end inside a block.
template <int64_t elements>
struct NormalBuffer {
  static constexpr int64_t blocks = (elements + 6) / 4 / stride_blocks * stride_blocks + stride_blocks;
  uint32_t words[4][blocks];
  float normals[4 * blocks];

  // Elements first ... first + count - 1 of the sequence, count <= elements.
  const float* fill(NoiseKey key, uint64_t first, int64_t count) {
    const uint64_t first_block = first / 4;
    const int64_t skip = static_cast<int64_t>(first % 4), needed = (skip + count + 3) / 4;
    for (int64_t b = 0; b < needed; b += stride_blocks)
      philox_blocks(key, first_block + static_cast<uint64_t>(b), words[0] + b, words[1] + b, words[2] + b, words[3] + b);
    for (int64_t b = 0; b < needed; ++b) {
      const NormalPair low = normal_pair(words[0][b], words[1][b]), high = normal_pair(words[2][b], words[3][b]);
      normals[4 * b] = low.first;
      normals[4 * b + 1] = low.second;
      normals[4 * b + 2] = high.first;
      normals[4 * b + 3] = high.second;
    }
    return normals + skip;
  }
};

}  // namespace betavae_fast::BVF_ISA
