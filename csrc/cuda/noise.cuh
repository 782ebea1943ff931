// A group's noise, drawn from the sequence that rng names.
#pragma once

#include "../include/normal.h"

namespace betavae_fast::cuda {

// Read when the kernel runs, so that a CUDA graph's replay sees new values. The shuffle changes nothing: it tells the
// compiler that the key is one for the whole warp, which then keeps it, and the key schedule, in uniform registers.
__device__ __forceinline__ NoiseKey read_key(const int64_t* rng) {
  const auto uniform = [rng](int i) { return static_cast<uint64_t>(__shfl_sync(0xFFFFFFFFu, rng[i], 0)); };
  return {uniform(0), uniform(1)};
}

// Elements `first` ... of the sequence; first is a multiple of 4.
template <int n>
__device__ __forceinline__ void draw(NoiseKey key, uint64_t first, float (&eps)[n]) {
#pragma unroll
  for (int j = 0; j < n; j += 4) {
    const Normals block = normals(key, first / 4 + j / 4);
    eps[j] = block.n0, eps[j + 1] = block.n1, eps[j + 2] = block.n2, eps[j + 3] = block.n3;
  }
}

// The same from any element on. Blocks are shared by consecutive elements where the sequence happens to be aligned.
template <int n>
__device__ __forceinline__ void draw_anywhere(NoiseKey key, uint64_t first, float (&eps)[n]) {
  const int skip = static_cast<int>(first % 4);
  if (skip == 0) return draw(key, first, eps);
  float run[n + 4];
  draw(key, first - skip, run);
#pragma unroll
  for (int j = 0; j < n; ++j) eps[j] = skip == 1 ? run[j + 1] : skip == 2 ? run[j + 2] : run[j + 3];
}

}  // namespace betavae_fast::cuda
