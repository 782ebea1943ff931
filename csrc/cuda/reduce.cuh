// Sums in a fixed order: no atomics, the same bits every run. What a CTA sums it writes to its own place;
// reduce_partials (reduce.cu) then adds those in double.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

// The sum over lanes [0, width) of an aligned part of the warp, in its first lane.
__device__ __forceinline__ float sum_lanes(float x, int width) {
  for (int distance = width / 2; distance > 0; distance /= 2) x += __shfl_down_sync(0xFFFFFFFFu, x, distance);
  return x;
}

template <int n>
__device__ __forceinline__ float sum_group(const float (&x)[n]) {
  float parts[n];
#pragma unroll
  for (int j = 0; j < n; ++j) parts[j] = x[j];
#pragma unroll
  for (int width = n / 2; width > 0; width /= 2)
#pragma unroll
    for (int j = 0; j < width; ++j) parts[j] += parts[j + width];
  return parts[0];
}

// A CTA's sum, in thread 0. `shared` holds a float a warp.
__device__ __forceinline__ float sum_cta(float x, float* shared) {
  x = sum_lanes(x, 32);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x < cta_threads / 32 ? shared[threadIdx.x] : 0.0f;
  return sum_lanes(x, cta_threads / 32);
}

// The sums of a CTA's columns: the rows of the tile are folded in half until one is left. `shared` holds a tile;
// visit(column in the tile, sum), for its own columns alone: those beyond it are another CTA's.
template <int n, class Visit>
__device__ __forceinline__ void sum_columns(const Partition& cut, const float (&x)[n], float* shared, Visit visit) {
  if (cut.tile_rows == 1) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const int i = static_cast<int>(threadIdx.x) * n + j;
      if (i < cut.tile_cols) visit(i, x[j]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < n; j += 4)
    reinterpret_cast<float4*>(shared)[(threadIdx.x * n + j) / 4] = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
  for (int rows = cut.tile_rows; rows > 1;) {
    const int kept = (rows + 1) / 2, folded = (rows - kept) * cut.tile_cols, from = kept * cut.tile_cols;
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < folded; i += cta_threads) shared[i] += shared[from + i];
    rows = kept;
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < cut.tile_cols; i += cta_threads) visit(i, shared[i]);
}

// The sums of a tile's rows, each by as many threads of a warp as there are for it, a power of two.
template <int n>
class RowSums {
 public:
  __device__ __forceinline__ explicit RowSums(const Partition& cut)
      : tile_rows_(cut.tile_rows),
        grouped_(cut.groups_in_rows()),
        width_(grouped_ ? cut.tile_cols / n : cut.tile_cols) {
    int shift = 5;
    while (shift > 0 && (tile_rows_ << shift) > cta_threads) --shift;
    lanes_ = 1 << shift;
    lane_ = static_cast<int>(threadIdx.x) & (lanes_ - 1);
    first_row_ = static_cast<int>(threadIdx.x) >> shift;
    rows_at_once_ = cta_threads >> shift;
  }

  // `shared` holds a tile, and is one that the previous call did not use; visit(row in the tile, sum). Where no group
  // reaches into the next row, each thread adds its own group first.
  template <class Visit>
  __device__ __forceinline__ void of_tile(const float (&x)[n], float* shared, Visit visit) const {
    if (grouped_) {
      shared[threadIdx.x] = sum_group(x);
    } else {
#pragma unroll
      for (int j = 0; j < n; ++j) shared[threadIdx.x * n + j] = x[j];
    }
    __syncthreads();
#pragma unroll 1
    for (int row = first_row_; row - first_row_ < tile_rows_; row += rows_at_once_) {
      float sum = 0.0f;
      if (row < tile_rows_)
#pragma unroll 1
        for (int i = lane_; i < width_; i += lanes_) sum += shared[row * width_ + i];
      sum = sum_lanes(sum, lanes_);
      if (row < tile_rows_ && lane_ == 0) visit(row, sum);
    }
  }

 private:
  int tile_rows_;
  bool grouped_;
  int width_, lanes_, lane_, first_row_, rows_at_once_;
};

}  // namespace betavae_fast::cuda
