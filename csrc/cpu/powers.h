// Powers of two of whole vectors.
#pragma once

#include "vectors.h"

namespace betavae_fast::BVF_ISA {

// The vector form of exp2_() in include/log_densities.h.
inline Floats exp2_(Floats x) {
#if defined(__AVX512DQ__)
  // One instruction finds the distance to the nearest integer, and one multiplies by a power of two, even by
  // 2^-infinity.
  const Floats f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT), n = x - f, f2 = f * f;
#else
  constexpr float to_integer = 0x1.8000fep+23f;
  const Floats clamped = larger(Floats{} - 127.0f, x);
  const Floats shifted = clamped + to_integer, f = clamped - (shifted - to_integer), f2 = f * f;
#endif
  const Floats low = 0x1.ebf9bcp-3f * f + 0x1.62e42ap-1f, high = 0x1.3cea6ap-7f * f + 0x1.c6b74cp-5f;
  const Floats q = f2 * (f2 * 0x1.5bbcbap-10f + high) + low;
#if defined(__AVX512DQ__)
  return _mm512_scalef_ps(f * q + 1.0f, n);
#else
  const Integers scale = reinterpret_cast<Integers>(shifted) << 23;
  return reinterpret_cast<Floats>(scale) * (f * q + 1.0f);
#endif
}

inline Doubles exp2_(Doubles x) {
  for (int64_t k = 0; k < vector_bytes / static_cast<int64_t>(sizeof(double)); ++k) x[k] = std::exp2(x[k]);
  return x;
}

}  // namespace betavae_fast::BVF_ISA
