// Turns random words into standard normals (Box & Muller 1958), with polynomials of the lowest degree that keeps every
// normal within 2e-6 of exact (bound 1.98e-6, tests/test_noise.py). The coefficients are minimax fits of
// tools/fit_polynomials.py.
#pragma once

#include "philox.h"

namespace betavae_fast {

// sqrt(-2 ln u) with u = ((word >> 8) + 1) / 2^24 in (0, 1].
BVF_INLINE float normal_radius(uint32_t word) {
  // u * 2^24 = m * 2^e with m in [1/sqrt2, sqrt2); -2 ln u = (24 - e) 2 ln 2 - 2 ln(1 + f), f = m - 1.
  const int32_t bits = static_cast<int32_t>(bits_of(static_cast<float>(static_cast<int32_t>((word >> 8) + 1))));
  // e_bits is 2^23 e: e is not shifted down, and the constant for 2 ln 2 is divided by 2^23 instead. That constant has
  // so few digits that 24 times it is exact, so (24 - e) 2 ln 2 is rounded only once.
  const int32_t e_bits = (bits - 0x3F3504F3) & ~0x7FFFFF;
  const float f = float_from_bits(static_cast<uint32_t>(bits - e_bits)) - 1.0f;
  float p = 0x1.2b0e74p-2f;
  p = fma_(p, f, -0x1.cc3eaap-2f);
  p = fma_(p, f, 0x1.047a18p-1f);
  p = fma_(p, f, -0x1.5406cap-1f);
  p = fma_(p, f, 0x1.ffdba8p-1f);
  p = fma_(p, f, -0x1.000144p+1f);
  return sqrt_(fma_(p, f, fma_(static_cast<float>(e_bits), -0x1.62e43p-23f, 0x1.0a2b24p+5f)));
}

struct NormalPair {
  float first, second;
};

// Two normals at the angle (q + t) pi/2, where q is the top two bits of the word and t the next 24 bits as a
// two's-complement fraction in [-1/2, 1/2).
BVF_INLINE NormalPair normal_pair(float radius, uint32_t angle_word) {
  const float t = static_cast<float>(static_cast<int32_t>(angle_word << 2) >> 8) * 0x1p-24f;
  const float t2 = t * t;
  float s = -0x1.2cf5d4p-8f;
  s = fma_(s, t2, 0x1.465a3ep-4f);
  s = fma_(s, t2, -0x1.4abba8p-1f);
  s = fma_(s, t2, 0x1.921fb4p+0f);
  s = s * t;
  float c = -0x1.4ea9eap-6f;
  c = fma_(c, t2, 0x1.03b162p-2f);
  c = fma_(c, t2, -0x1.3bd3a2p+0f);
  c = fma_(c, t2, 1.0f);
  // Odd quadrants exchange sine and cosine. The radius takes the sine's sign, which is negative in quadrants 2 and 3;
  // in odd quadrants the cosine has the opposite sign.
  constexpr uint32_t odd = 0x40000000u;
  const float signed_radius = float_from_bits(bits_of(radius) ^ (angle_word & 0x80000000u));
  return {signed_radius * by_bit(angle_word, odd, -s, c), signed_radius * by_bit(angle_word, odd, c, s)};
}

struct Normals {
  float n0, n1, n2, n3;
};

// The elements 4 * block to 4 * block + 3 of the noise sequence.
BVF_INLINE Normals normals(const RoundKeys& keys, uint64_t block) {
  const Words w = philox(keys, block);
  const NormalPair a = normal_pair(normal_radius(w.w0), w.w1), b = normal_pair(normal_radius(w.w2), w.w3);
  return {a.first, a.second, b.first, b.second};
}

}  // namespace betavae_fast
