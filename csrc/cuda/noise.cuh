// Draws the noise of a thread's groups from the sequence that rng names.
#pragma once

#include "../include/normal.h"

namespace betavae_fast::cuda {

// Reads the key when the kernel runs, so that a replayed CUDA graph sees new values. The shuffles change no value. They
// tell the compiler that the keys are the same for the whole warp, so that it keeps them in uniform registers instead
// of adding them up again for every Philox block.
__device__ __forceinline__ RoundKeys read_keys(const int64_t* rng) {
  RoundKeys keys = round_keys({static_cast<uint64_t>(rng[0]), static_cast<uint64_t>(rng[1])});
  const auto make_uniform = [](uint32_t& word) { word = __shfl_sync(0xFFFFFFFFu, word, 0); };
#pragma unroll
  for (int round = 0; round < philox_rounds; ++round) make_uniform(keys.k0[round]), make_uniform(keys.k1[round]);
  make_uniform(keys.stream_product_low), make_uniform(keys.stream_product_high), make_uniform(keys.stream_high);
  return keys;
}

// The noise of a thread's groups, tile by tile. `blocks` promises that every group begins at a Philox block.
template <bool blocks>
class Noise {
 public:
  // Begins at element `first` of the sequence. Without rng nothing may be drawn.
  __device__ __forceinline__ Noise(const int64_t* rng, int64_t first, int64_t tile_stride)
      : at_(static_cast<uint64_t>(first) / unit), step_(static_cast<uint64_t>(tile_stride) / unit) {
    if (rng) keys_ = read_keys(rng);
  }

  template <int n>
  __device__ __forceinline__ void draw(float (&eps)[n]) const {
    if constexpr (blocks) return draw_blocks(at_, eps);
    // A group that happens to begin at a Philox block needs no block beyond its own.
    const int skip = static_cast<int>(at_ % 4);
    if (skip == 0) return draw_blocks(at_ / 4, eps);
    float run[n + 4];
    draw_blocks(at_ / 4, run);
#pragma unroll
    for (int j = 0; j < n; ++j) eps[j] = skip == 1 ? run[j + 1] : skip == 2 ? run[j + 2] : run[j + 3];
  }
  __device__ __forceinline__ void next_tile() { at_ += step_; }

 private:
  static constexpr uint64_t unit = blocks ? 4 : 1;

  template <int n>
  __device__ __forceinline__ void draw_blocks(uint64_t first, float (&eps)[n]) const {
#pragma unroll
    for (int j = 0; j < n; j += 4) {
      const Normals block = normals(keys_, first + j / 4);
      eps[j] = block.n0, eps[j + 1] = block.n1, eps[j + 2] = block.n2, eps[j + 3] = block.n3;
    }
  }

  RoundKeys keys_ = {};
  uint64_t at_, step_;
};

}  // namespace betavae_fast::cuda
