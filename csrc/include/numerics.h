// The arithmetic operations of all formulas, chosen so that g++ and nvcc produce the same bits.
//
// Only correctly rounded operations (+ - * fma sqrt, exact conversions) are used; reciprocal_() alone may differ by an
// ulp. The compilers may not fuse operations (-ffp-contract=off, --fmad=false), so a fused multiply-add happens only
// where fma_() is called. The log densities on the CPU are the exception: no exact bits are promised, and they are
// compiled with -ffp-contract=fast.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define BVF_INLINE __host__ __device__ __forceinline__
#else
#define BVF_INLINE inline __attribute__((always_inline))
#endif

namespace betavae_fast {

BVF_INLINE uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

BVF_INLINE float float_from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// a * b + c, rounded once.
BVF_INLINE float fma_(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  // Without a hardware fma: the product of two floats is exact in double. The sum is then rounded to odd, so that only
  // the final rounding to float counts (Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums").
  const double product = static_cast<double>(a) * b;
  const double sum = product + c;
  const double shadow = sum - product;
  const double error = (product - (sum - shadow)) + (c - shadow);
  int64_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  const int64_t even = ~bits & 1;
  const int64_t outward = (error > 0) - (error < 0);
  bits += even * (bits < 0 ? -outward : outward);
  double odd;
  std::memcpy(&odd, &bits, sizeof odd);
  return static_cast<float>(odd);
#endif
}

// The square root, correctly rounded for x = 0 and for x >= 2^-100.
BVF_INLINE float sqrt_(float x) {
#if defined(__CUDA_ARCH__)
  // The operations of __fsqrt_rn for x >= 2^-101, without its branch for subnormals. The bound turns 0 * infinity into
  // 0.
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  inverse = fminf(inverse, 0x1p+64f);
  const float root = x * inverse;
  return fma_(fma_(-root, root, x), 0.5f * inverse, root);
#else
  return __builtin_sqrtf(x);
#endif
}

// 1 / x for 1 <= x <= 2, within an ulp.
BVF_INLINE float reciprocal_(float x) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return fma_(fma_(-x, inverse, 1.0f), inverse, inverse);
#else
  return 1.0f / x;
#endif
}

#if defined(__CUDA_ARCH__)
BVF_INLINE float clamp_(float x, float lo, float hi) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(lo));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(hi));
  return x;
}
#else
// NaN compares false with everything, so both comparisons keep it.
template <class Real>
BVF_INLINE Real clamp_(Real x, Real lo, Real hi) {
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}
#endif

// Returns `set` or `unset`, depending on one bit of the word. It is written in PTX because nvcc would shift the bit
// down before testing it, which takes three instructions instead of one.
BVF_INLINE float by_bit(uint32_t word, uint32_t bit, float set, float unset) {
#if defined(__CUDA_ARCH__)
  float chosen;
  asm("{ .reg .pred p; .reg .b32 t; and.b32 t, %1, %2; setp.ne.u32 p, t, 0; selp.f32 %0, %3, %4, p; }"
      : "=f"(chosen)
      : "r"(word), "r"(bit), "f"(set), "f"(unset));
  return chosen;
#else
  return (word & bit) != 0 ? set : unset;
#endif
}

// The 64-bit product of two 32-bit factors. It is written in PTX so that nvcc uses a single instruction.
BVF_INLINE uint64_t wide_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return static_cast<uint64_t>(a) * b;
#endif
}

}  // namespace betavae_fast
