// The formulas of one element of the diagonal-Gaussian bottleneck q(z|x) = N(mu, sigma^2), v = log sigma^2; no loops,
// no memory access.
//
//   z = mu + sigma eps          dz/dmu = 1     dz/dv = sigma eps / 2
//   KL(q || N(0,1)) = mu^2 / 2 + (e^v - 1 - v) / 2      dKL/dmu = mu    dKL/dv = (e^v - 1) / 2
//
// The second term of the KL is a difference that vanishes to second order at v = 0. It is never computed as written:
// everything that depends on v is computed from w = e^(v/2 - n ln 2) - 1, which is relatively accurate where v is
// small.
#pragma once

#include "exponential.h"

namespace betavae_fast {

// The operators' numbers that the formulas use. Each kernel converts them to the type in which it computes.
template <class Real>
struct LatentSettings {
  Real logvar_min, logvar_max;

  template <class To>
  LatentSettings<To> to() const {
    return {static_cast<To>(logvar_min), static_cast<To>(logvar_max)};
  }
};

template <class Real>
struct Spread {
  Real sigma;        // e^(v/2)
  Real half_expm1;   // (e^v - 1) / 2, the derivative of the KL by v
  Real half_excess;  // (e^v - 1 - v) / 2, the variance's part of the KL: 0 at v = 0, never negative
};

// Reduces v/2, as spread() needs it.
template <class Real>
BVF_INLINE Reduced<Real> reduce(Real v, ExponentRange range = {}) {
  return reduce_exponent(Real(0.5) * v, range);
}

// Each result is within 3 ulp where it is finite (half_excess within 9); sigma is 0 below v = -175.
BVF_INLINE Spread<float> spread(Reduced<float> half) {
  constexpr float infinity = __builtin_inff();
  // e^r = 1 + w
  const float r2q = exponential_excess(half.r);
  const float w = half.r + r2q;
  // e^v = 4^n (1 + w)^2. The scale is halved before it is squared, so that it overflows no earlier than the result.
  const float half_scale2 = (0.5f * half.scale) * half.scale;
  const float finite = fma_(half_scale2, fma_(w, w, w + w), half_scale2 - 0.5f);
  const float half_expm1 = half.x > 44.7f ? infinity : finite;
  // For n = 0, e^v - 1 - v = (1 + w)^2 - 1 - 2r = 2 r^2 q + w^2, a sum of positive terms. Otherwise v is subtracted
  // from e^v - 1, with a bound that avoids infinity - infinity at v = infinity.
  const float upper = half.x > 89.0f ? 89.0f : half.x;
  const float half_excess = half.scale == 1.0f ? fma_(0.5f * w, w, r2q) : half_expm1 - upper;
  return {half.scale * (1.0f + w), half_expm1, half_excess};
}

BVF_INLINE Spread<float> spread(float v) { return spread(reduce(v)); }

#if !defined(__CUDA_ARCH__)
BVF_INLINE Spread<double> spread(Reduced<double> half) {
  const double v = 2 * half.x;
  // expm1 may round to just below v, hence the maximum with 0. Past v = 1e3 expm1 is infinite, and the bound on v keeps
  // the difference infinite.
  const double half_expm1 = 0.5 * std::expm1(v), half_excess = half_expm1 - 0.5 * (v > 1e3 ? 1e3 : v);
  return {std::exp(half.x), half_expm1, half_excess < 0 ? 0 : half_excess};
}
#endif

template <class Real>
BVF_INLINE Real sample(Real mu, Spread<Real> s, Real eps) {
  return multiply_add(s.sigma, eps, mu);
}

template <class Real>
BVF_INLINE Real kl(Real mu, Spread<Real> s) {
  return multiply_add(Real(0.5) * mu, mu, s.half_excess);
}

template <class Real>
struct LatentGrad {
  Real mu, logvar;
};

// Sets the factors of an absent gradient to 0, because 0 times infinity would be NaN.
template <bool has_grad_z, bool has_grad_kl, class Real>
BVF_INLINE Spread<Real> relevant(Spread<Real> s) {
  return {has_grad_z ? s.sigma : Real(0), has_grad_kl ? s.half_expm1 : Real(0), s.half_excess};
}

// The gradients of mu and v; grad_z and grad_kl are the gradients of this element's z and KL.
template <class Real>
BVF_INLINE LatentGrad<Real> latent_grad(Real mu, Spread<Real> s, Real eps, Real grad_z, Real grad_kl) {
  return {multiply_add(grad_kl, mu, grad_z), multiply_add(grad_kl, s.half_expm1, grad_z * (Real(0.5) * s.sigma * eps))};
}

}  // namespace betavae_fast
