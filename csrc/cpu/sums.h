// Sums whose order depends only on the number of terms.
#pragma once

#include <cstdint>

namespace betavae_fast::BVF_ISA {

// Adds the terms up in 16 interleaved partial sums and then those pairwise, so that the result is the same for every
// vector width.
template <class Real>
inline double row_sum(const Real* x, int64_t n) {
  Real part[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t k = 0; k < 16; ++k) part[k] += x[i + k];
  for (int64_t k = 0; i + k < n; ++k) part[k] += x[i + k];
  for (int64_t width = 8; width > 0; width /= 2)
    for (int64_t k = 0; k < width; ++k) part[k] += part[k + width];
  return part[0];
}

}  // namespace betavae_fast::BVF_ISA
