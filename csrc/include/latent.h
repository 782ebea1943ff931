// One element of the diagonal-Gaussian bottleneck q(z|x) = N(mu, sigma^2), v = log sigma^2. No loops, no memory.
//
//   z = mu + sigma eps          dz/dmu = 1     dz/dv = sigma eps / 2
//   KL(q || N(0,1)) = mu^2 / 2 + (e^v - 1 - v) / 2      dKL/dmu = mu    dKL/dv = (e^v - 1) / 2
//
// The second term of the KL is a difference that vanishes to second order at v = 0. It is never taken as written: all that
// follows from v comes out of w = e^(v/2 - n ln 2) - 1, which is small and relatively accurate where v is small.
#pragma once

#include "numerics.h"

namespace betavae_fast {

template <class Real>
struct Spread {
  Real sigma;        // e^(v/2)
  Real half_expm1;   // (e^v - 1) / 2, the gradient of the KL
  Real half_excess;  // (e^v - 1 - v) / 2, the variance's part of the KL: zero at v = 0, never negative
};

// v/2 = n ln 2 + r with |r| <= ln 2 / 2, and 2^n. Its own step, so that a loop over many elements can be cut here: either
// half's chain of dependent operations is short enough for a CPU to overlap several.
template <class Real>
struct Reduced {
  Real half, r, scale;
};

BVF_INLINE Reduced<float> reduce(float v) {
  constexpr float log2_e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  constexpr float to_integer = 0x1.8000fep+23f;  // 3 * 2^22 + 127: adding it rounds, and leaves n + 127 in the low bits
  const float half = 0.5f * v;
  const float upper = half > 89.0f ? 89.0f : half, clamped = upper < -88.0f ? -88.0f : upper;
  const float shifted = fma_(clamped, log2_e, to_integer);
  const float n = shifted - to_integer;
  // Cody & Waite 1980: n * ln2_high is exact.
  const float r = fma_(-n, ln2_low, fma_(-n, ln2_high, clamped));
  return {half, r, float_from_bits(bits_of(shifted) << 23)};  // 0 for n = -127, infinity for 128
}

// Each within 3 ulp where it is finite (half_excess within 9); sigma is flushed to 0 below v = -175.
BVF_INLINE Spread<float> spread(Reduced<float> x) {
  constexpr float infinity = __builtin_inff();
  // e^r = 1 + w = 1 + r + r^2 q(r), minimax.
  const float r2 = x.r * x.r;
  const float low = fma_(0x1.5554dep-3f, x.r, 0.5f), high = fma_(0x1.120b1ap-7f, x.r, 0x1.5555bap-5f);
  const float r2q = r2 * fma_(fma_(0x1.6c69fp-10f, r2, high), r2, low);
  const float w = x.r + r2q;
  // e^v = 4^n (1 + w)^2; halved before it is squared, so that it overflows no earlier than the result.
  const float half_scale2 = (0.5f * x.scale) * x.scale;
  const float finite = fma_(half_scale2, fma_(w, w, w + w), half_scale2 - 0.5f);
  const float half_expm1 = x.half > 44.7f ? infinity : finite;
  // n = 0: e^v - 1 - v = (1 + w)^2 - 1 - 2r = 2 r^2 q + w^2, a sum of positive terms. Else e^v - 1 - v, without the
  // infinity - infinity of v = infinity.
  const float upper = x.half > 89.0f ? 89.0f : x.half;
  const float half_excess = x.scale == 1.0f ? fma_(0.5f * w, w, r2q) : half_expm1 - upper;
  return {x.scale * (1.0f + w), half_expm1, half_excess};
}

BVF_INLINE Spread<float> spread(float v) { return spread(reduce(v)); }

#if !defined(__CUDA_ARCH__)
BVF_INLINE Reduced<double> reduce(double v) { return {0.5 * v, 0, 0}; }

BVF_INLINE Spread<double> spread(Reduced<double> x) {
  const double v = 2 * x.half;
  // expm1 may round to just below v; past 1e3 it is infinite, and infinity - v must stay so.
  const double half_expm1 = 0.5 * std::expm1(v), half_excess = half_expm1 - 0.5 * (v > 1e3 ? 1e3 : v);
  return {std::exp(x.half), half_expm1, half_excess < 0 ? 0 : half_excess};
}
#endif

BVF_INLINE float multiply_add(float a, float b, float c) { return fma_(a, b, c); }
BVF_INLINE double multiply_add(double a, double b, double c) { return a * b + c; }

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

// What a gradient that is absent would multiply by zero, though it may be infinite.
template <bool has_grad_z, bool has_grad_kl, class Real>
BVF_INLINE Spread<Real> relevant(Spread<Real> s) {
  return {has_grad_z ? s.sigma : Real(0), has_grad_kl ? s.half_expm1 : Real(0), s.half_excess};
}

// grad_z and grad_kl are the gradients of this element's z and KL.
template <class Real>
BVF_INLINE LatentGrad<Real> latent_grad(Real mu, Spread<Real> s, Real eps, Real grad_z, Real grad_kl) {
  return {multiply_add(grad_kl, mu, grad_z),
          multiply_add(grad_kl, s.half_expm1, grad_z * (Real(0.5) * s.sigma * eps))};
}

}  // namespace betavae_fast
