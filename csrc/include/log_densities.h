// The formulas of one term of the aggregated posterior, a mixture of Gaussians; no loops, no memory access.
//
// Everything is in base 2, whose range reduction is exact. With k^2 = log2(e) / 2 and t = k (z - mu) / sigma,
//   log2 N(z; mu, sigma^2) = peak - t^2,   peak = -log2(sigma^2)/2 - log2(2 pi)/2
// With a responsibility p in [0, 1], the gradient g of the mixture's natural log-density, w = g p and v = log sigma^2,
//   dz = -(w t sigma^-1) / k,   dmu = (w t) sigma^-1 / k,   dv = w (t^2 / (2 k^2) - 1/2)
#pragma once

#include "exponential.h"

namespace betavae_fast {

template <class T>
constexpr T ln_2 = T(0.69314718055994530942L);
template <class T>
constexpr T log2_e = T(1.44269504088896340736L);
template <class T>
constexpr T half_log2_2pi = T(1.32574806473615939902L);
template <class T>
constexpr T k_scale = T(0.84932180028801904272L);  // sqrt(log2(e) / 2)

// 2^x for x <= 0, within 2 ulp; 0 below -127.
BVF_INLINE float exp2_(float x) {
  constexpr float to_integer = 0x1.8000fep+23f;  // adding it rounds and leaves n + 127 in the low bits
  const float clamped = x < -127.0f ? -127.0f : x;
  const float shifted = clamped + to_integer, f = clamped - (shifted - to_integer);
  const float f2 = f * f;
  const float low = fma_(0x1.ebf9bcp-3f, f, 0x1.62e42ap-1f), high = fma_(0x1.3cea6ap-7f, f, 0x1.c6b74cp-5f);
  const float q = fma_(f2, fma_(f2, 0x1.5bbcbap-10f, high), low);
  return float_from_bits(bits_of(shifted) << 23) * fma_(f, q, 1.0f);
}

#if !defined(__CUDA_ARCH__)
BVF_INLINE double exp2_(double x) { return std::exp2(x); }
#endif

// The type in which a posterior's constants are computed, so that they are rounded only once; long double only on the
// CPU.
template <class Real>
struct WiderThan;
template <>
struct WiderThan<float> {
  using type = double;
};
template <>
struct WiderThan<double> {
  using type = long double;
};
template <class Real>
using Wider = typename WiderThan<Real>::type;

// k / sigma, bounded so that t is finite for z and mu of ordinary size, and 0 where they are equal.
template <class Real>
BVF_INLINE Wider<Real> inverse_width(Real logvar) {
  using T = Wider<Real>;
  constexpr T bound = sizeof(Real) == sizeof(float) ? T(0x1p+110) : T(0x1p+1000);
  const T inverse = k_scale<T> * std::exp(T(-0.5) * T(logvar));
  return inverse > bound ? bound : inverse;
}

template <class Real>
BVF_INLINE Wider<Real> peak(Real logvar) {
  using T = Wider<Real>;
  return T(-0.5) * log2_e<T> * T(logvar) - half_log2_2pi<T>;
}

// The log2 weights of the pairs: `all` applies to all pairs, `own` is added for a row's own posterior, and `next` for
// the posterior after it.
struct PairWeights {
  double all, own, next;
};

// The weights of an estimator, numbered as in betavae_fast/ops/reductions.py: 0 is mws, 1 is mss.
inline PairWeights weights_of(int64_t batch, int64_t dataset_size, int64_t estimator) {
  const double b = static_cast<double>(batch), n = static_cast<double>(dataset_size), others = b - 1;
  if (estimator == 0) return {-std::log2(n * b), 0, 0};
  return {-std::log2(others), std::log2(others / n), std::log2((n - others) / n)};
}

}  // namespace betavae_fast
