// The types in which tensor elements are stored, and the types in which they are computed.
#pragma once

#include "numerics.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace betavae_fast {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

BVF_INLINE float widen(float x) { return x; }
BVF_INLINE double widen(double x) { return x; }
BVF_INLINE float widen(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }
BVF_INLINE float widen(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  // Shift exponent and mantissa into place; the three kinds (subnormal, normal, infinite or NaN) differ in the bias.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7FFFu) << 13, exponent = magnitude & 0x0F800000u;
  const uint32_t normal = magnitude + (112u << 23), special = magnitude + (224u << 23);
  const float subnormal = float_from_bits(magnitude + (113u << 23)) - 0x1p-14f;
  const uint32_t bits = exponent == 0 ? bits_of(subnormal) : exponent == 0x0F800000u ? special : normal;
  return float_from_bits(bits | static_cast<uint32_t>(x.bits & 0x8000u) << 16);
#endif
}

// Rounds to nearest, ties to even.
BVF_INLINE void narrow(float x, float& out) { out = x; }
BVF_INLINE void narrow(double x, double& out) { out = x; }
BVF_INLINE void narrow(float x, BFloat16& out) {
#if defined(__CUDA_ARCH__)
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  const uint32_t bits = bits_of(x), rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x == x ? rounded : 0x7FC0u);
#endif
}
BVF_INLINE void narrow(float x, Half& out) {
#if defined(__CUDA_ARCH__)
  out.bits = __half_as_ushort(__float2half_rn(x));
#else
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the spacing is 2^-24: adding 1/2 leaves x in the mantissa, rounded to a multiple of that spacing.
  const uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  const uint32_t overflowing = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  out.bits = static_cast<uint16_t>(sign | (magnitude >= 0x477FF000u ? overflowing : finite));
#endif
}

}  // namespace betavae_fast
