// Vectors as wide as the instruction set's, in the compiler's own vector types.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

namespace betavae_fast::BVF_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

using Floats = float __attribute__((vector_size(vector_bytes)));
using Doubles = double __attribute__((vector_size(vector_bytes)));
using Integers = int32_t __attribute__((vector_size(vector_bytes)));

template <class Real>
struct VectorOf {
  using type = Floats;
};
template <>
struct VectorOf<double> {
  using type = Doubles;
};
template <class Real>
using Vector = typename VectorOf<Real>::type;

template <class Real>
inline Vector<Real> load(const Real* from) {
  Vector<Real> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class Real>
inline void store(Real* to, Vector<Real> x) {
  std::memcpy(to, &x, sizeof x);
}

// Adds x to as many doubles as it has elements.
inline void add_to(double* to, Floats x) {
  using Wide = double __attribute__((vector_size(2 * vector_bytes)));
  Wide sum;
  std::memcpy(&sum, to, sizeof sum);
  sum += __builtin_convertvector(x, Wide);
  std::memcpy(to, &sum, sizeof sum);
}
inline void add_to(double* to, Doubles x) { store(to, load(to) + x); }

// The larger of a and b, or b if either is NaN. Compilers make two instructions of the float comparison, so intrinsics
// are used where there are any.
inline Doubles larger(Doubles a, Doubles b) { return a > b ? a : b; }
#if defined(__AVX512F__)
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
#elif defined(__AVX2__)
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
#else
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif

}  // namespace betavae_fast::BVF_ISA
