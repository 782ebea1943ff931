// Code shared by the kernels of the log-densities: a thread's lane and warp, and the terms of its pairs.
#pragma once

#include "dispatch.cuh"
#include "log_densities.h"
#include "vector.cuh"

namespace betavae_fast::cuda {

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

// 2^x within 2 ulp; 0 below -126.
__device__ __forceinline__ float power_of_two(float x) {
#if defined(__CUDA_ARCH__)
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
#else
  return std::exp2(x);
#endif
}

template <class T>
__device__ __forceinline__ Compute<T> number(const Matrix& x, int64_t row, int64_t col) {
  return widen(static_cast<const T*>(x.data)[row * x.row + col * x.col]);
}

// Computes -sum_d t_ijd^2 for the pairs of neighbouring rows and posteriors. The sum has two levels, so that its error
// grows more slowly with D.
template <int rows, int posteriors>
__device__ __forceinline__ void negated_squares(const LogDensitiesProblem& p, int64_t row, int64_t posterior,
                                                float (&sum)[rows][posteriors]) {
  constexpr int64_t dims_at_once = 16;
  const float *z_at = p.z + row, *mu_at = p.mu + posterior, *inverse_at = p.inverse_width + posterior;
#pragma unroll
  for (int r = 0; r < rows; ++r)
#pragma unroll
    for (int k = 0; k < posteriors; ++k) sum[r][k] = 0.0f;
#pragma unroll 1
  for (int64_t first = 0; first < p.dims; first += dims_at_once) {
    const int count = static_cast<int>(p.dims - first < dims_at_once ? p.dims - first : dims_at_once);
    float part[rows][posteriors] = {};
#pragma unroll 1
    for (int d = 0; d < count; ++d) {
      float z[rows], mu[posteriors], inverse[posteriors];
      load_group(z_at, z);
      load_group(mu_at, mu);
      load_group(inverse_at, inverse);
      z_at += p.row_stride;
      mu_at += p.posterior_stride;
      inverse_at += p.posterior_stride;
#pragma unroll
      for (int r = 0; r < rows; ++r)
#pragma unroll
        for (int k = 0; k < posteriors; ++k) {
          const float t = (z[r] - mu[k]) * inverse[k];
          part[r][k] = fma_(-t, t, part[r][k]);
        }
    }
#pragma unroll
    for (int r = 0; r < rows; ++r)
#pragma unroll
      for (int k = 0; k < posteriors; ++k) sum[r][k] += part[r][k];
  }
}

// Tells whether any of these pairs has a weight of its own.
__device__ __forceinline__ bool has_own_weights(const LogDensitiesProblem& p, int64_t row, int64_t rows,
                                                int64_t posterior, int64_t posteriors) {
  if (p.weights.own == 0.0 && p.weights.next == 0.0) return false;
  const int64_t first = p.first_row + row,
                after = first + rows;  // own posteriors are [first, after); next posteriors end with `after`
  return (first < posterior + posteriors && posterior <= after) || (posterior == 0 && after >= p.posteriors);
}

template <int rows, int posteriors>
__device__ __forceinline__ void add_own_weights(const LogDensitiesProblem& p, int64_t row, int64_t posterior,
                                                float (&terms)[rows][posteriors]) {
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const int64_t own_posterior = p.first_row + row + r;
    const int64_t next = own_posterior + 1 == p.posteriors ? 0 : own_posterior + 1;
#pragma unroll
    for (int k = 0; k < posteriors; ++k) {
      if (posterior + k == own_posterior) terms[r][k] += static_cast<float>(p.weights.own);
      if (posterior + k == next) terms[r][k] += static_cast<float>(p.weights.next);
    }
  }
}

}  // namespace betavae_fast::cuda
