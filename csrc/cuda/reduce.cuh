// Sums in a fixed order, without atomics, so that every run has the same bits. Each CTA writes its partial sums to its
// own place, and reduce_partials() (reduce.cu) then adds them up in double.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

// The sum over `width` lanes of a warp, which begin at a multiple of `width`; the first of them has the result.
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

// The sum over a CTA; thread 0 has the result. `shared` has room for one float per warp.
__device__ __forceinline__ float sum_cta(float x, float* shared) {
  x = sum_lanes(x, 32);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x < cta_threads / 32 ? shared[threadIdx.x] : 0.0f;
  return sum_lanes(x, cta_threads / 32);
}

// Sums a CTA's columns: the rows of the tile are folded in half until one is left. `shared` has room for a tile. Calls
// visit(column in the tile, sum) only for the tile's own columns; the columns beyond them belong to another CTA.
template <int n, class Visit>
__device__ __forceinline__ void sum_columns(const Partition& partition, const float (&x)[n], float* shared,
                                            Visit visit) {
  if (partition.tile_rows == 1) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const int i = static_cast<int>(threadIdx.x) * n + j;
      if (i < partition.tile_cols) visit(i, x[j]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < n; j += 4)
    reinterpret_cast<float4*>(shared)[(threadIdx.x * n + j) / 4] = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
  for (int rows = partition.tile_rows; rows > 1;) {
    const int kept = (rows + 1) / 2, folded = (rows - kept) * partition.tile_cols, from = kept * partition.tile_cols;
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < folded; i += cta_threads) shared[i] += shared[from + i];
    rows = kept;
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < partition.tile_cols; i += cta_threads) visit(i, shared[i]);
}

// Sums the rows of a tile. Each row gets as many threads of a warp as there are for it, rounded down to a power of two.
template <int n>
class RowSums {
 public:
  __device__ __forceinline__ explicit RowSums(const Partition& partition)
      : tile_rows_(partition.tile_rows),
        grouped_(partition.groups_in_rows()),
        width_(grouped_ ? partition.tile_cols / n : partition.tile_cols) {
    int shift = 5;
    while (shift > 0 && (tile_rows_ << shift) > cta_threads) --shift;
    lanes_ = 1 << shift;
    lane_ = static_cast<int>(threadIdx.x) & (lanes_ - 1);
    first_row_ = static_cast<int>(threadIdx.x) >> shift;
    rows_at_once_ = cta_threads >> shift;
  }

  // Calls visit(row in the tile, sum) for each row. `shared` has room for a tile, and must not be the memory that the
  // previous call used. If no group spans two rows, each thread adds up its own group first.
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
