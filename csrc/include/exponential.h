// Computes e^x in two steps, so that a loop over many elements can be split between them. Each step's chain of
// dependent operations is short enough for a CPU to overlap several elements.
#pragma once

#include "numerics.h"

namespace betavae_fast {

// The range reduction x = n ln 2 + r with |r| <= ln 2 / 2; `scale` is 2^n. For double, which uses std::exp, only x is
// set.
template <class Real>
struct Reduced {
  Real x, r, scale;
};

// Below `low`, e^x is taken as 0; above `high`, it is infinite.
struct ExponentRange {
  float low = -88.0f, high = 89.0f;
};

BVF_INLINE Reduced<float> reduce_exponent(float x, ExponentRange range = {}) {
  constexpr float log2_e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  constexpr float to_integer = 0x1.8000fep+23f;  // 3 * 2^22 + 127: adding it rounds and leaves n + 127 in the low bits
  const float upper = x > range.high ? range.high : x, clamped = upper < range.low ? range.low : upper;
  const float shifted = fma_(clamped, log2_e, to_integer);
  const float n = shifted - to_integer;
  // Cody & Waite 1980: n * ln2_high is exact.
  const float r = fma_(-n, ln2_low, fma_(-n, ln2_high, clamped));
  return {x, r, float_from_bits(bits_of(shifted) << 23)};  // 0 for n = -127, infinity for 128
}

// e^r - 1 - r for a reduced r, as r^2 q(r) with a minimax polynomial q.
BVF_INLINE float exponential_excess(float r) {
  const float r2 = r * r;
  const float low = fma_(0x1.5554dep-3f, r, 0.5f), high = fma_(0x1.120b1ap-7f, r, 0x1.5555bap-5f);
  return r2 * fma_(fma_(0x1.6c69fp-10f, r2, high), r2, low);
}

// e^x within 3 ulp; 0 below x = -88.
BVF_INLINE float exponential(Reduced<float> reduced) {
  return reduced.scale * (1.0f + (reduced.r + exponential_excess(reduced.r)));
}

BVF_INLINE float multiply_add(float a, float b, float c) { return fma_(a, b, c); }

#if !defined(__CUDA_ARCH__)
BVF_INLINE Reduced<double> reduce_exponent(double x, ExponentRange = {}) { return {x, 0, 0}; }
BVF_INLINE double exponential(Reduced<double> reduced) { return std::exp(reduced.x); }
#endif

BVF_INLINE double multiply_add(double a, double b, double c) { return a * b + c; }

}  // namespace betavae_fast
