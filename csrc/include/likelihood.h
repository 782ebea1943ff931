// The formulas of one pixel: -log p(t | x) in nats and its gradient by x, the decoder's output; no loops, no memory
// access.
//
//   bernoulli  max(x, 0) - x t + log(1 + e^-|x|)          sigmoid(x) - t      x: logit
//   gaussian   ((x - t) / s)^2 / 2 + log s + log(2 pi)/2   (x - t) / s^2       x: mean
//   laplace    |x - t| / s + log 2s                        sign(x - t) / s     x: mean
#pragma once

#include "exponential.h"
#include "problem.h"

namespace betavae_fast {

template <class Real>
struct Nll {
  Real nll, grad;
};

// log(1 + e) for 0 <= e <= 1 within 2 ulp, as e + e^2 q(e) with a minimax polynomial q.
BVF_INLINE float log1p_(float e) {
  const float e2 = e * e, e4 = e2 * e2;
  const float q01 = fma_(0x1.5535d8p-2f, e, -0x1.ffff14p-2f), q23 = fma_(0x1.88443ap-3f, e, -0x1.fd131ap-3f);
  const float q45 = fma_(0x1.446b9ap-4f, e, -0x1.19ad5ep-3f), q67 = fma_(0x1.5f95fep-8f, e, -0x1.ec9836p-6f);
  return fma_(e2, fma_(e4, fma_(e2, q67, q45), fma_(e2, q23, q01)), e);
}

#if !defined(__CUDA_ARCH__)
BVF_INLINE double log1p_(double e) { return std::log1p(e); }
BVF_INLINE double reciprocal_(double x) { return 1 / x; }
#endif

// e^-|x|, which cannot overflow. The Bernoulli NLL and its gradient are computed from it. It is a separate step, so
// that a loop can be split here.
template <class Real>
BVF_INLINE Real decay(Real x, ExponentRange range = {}) {
  return exponential(reduce_exponent(-std::fabs(x), range));
}

template <class Real>
BVF_INLINE Nll<Real> bernoulli(Real x, Real t, Real e) {
  const Real inverse = reciprocal_(1 + e), sigmoid = (x > 0 ? Real(1) : e) * inverse;
  return {multiply_add(-t, x, x > 0 ? x : Real(0)) + log1p_(e), sigmoid - t};
}

// The inverse width of the density and the logarithm of its normalising constant.
template <class Real>
struct Width {
  Real inverse, constant;
};

template <class Real>
BVF_INLINE Nll<Real> gaussian(Real x, Real t, Width<Real> width) {
  const Real d = (x - t) * width.inverse;
  return {multiply_add(Real(0.5) * d, d, width.constant), d * width.inverse};
}

// The gradient is 0 at x = t. NaN compares false with everything, so it passes through as d.
template <class Real>
BVF_INLINE Nll<Real> laplace(Real x, Real t, Width<Real> width) {
  const Real d = x - t, magnitude = d < 0 ? -d : d;
  const Real grad = d > 0 ? width.inverse : d < 0 ? -width.inverse : d;
  return {multiply_add(magnitude, width.inverse, width.constant), grad};
}

template <Likelihood likelihood, class Real>
BVF_INLINE Nll<Real> element_nll(Real x, Real t, Width<Real> width) {
  if constexpr (likelihood == Likelihood::bernoulli)
    return bernoulli(x, t, decay(x));
  else if constexpr (likelihood == Likelihood::gaussian)
    return gaussian(x, t, width);
  else
    return laplace(x, t, width);
}

inline Width<double> width_of(Likelihood likelihood, double scale) {
  constexpr double half_log_2pi = 0.91893853320467274178;
  switch (likelihood) {
    case Likelihood::bernoulli: return {1, 0};
    case Likelihood::gaussian: return {1 / scale, std::log(scale) + half_log_2pi};
    default: return {1 / scale, std::log(2 * scale)};
  }
}

// b / 255, correctly rounded for every b. 1 / 255 is written as the sum of two floats, so that no division is needed.
BVF_INLINE float pixel(uint8_t b) {
  constexpr float high = 0x1.010102p-8f, low = -0x1.fdfdfep-33f;
  const float value = static_cast<float>(b);
  return fma_(value, high, value * low);
}

}  // namespace betavae_fast
