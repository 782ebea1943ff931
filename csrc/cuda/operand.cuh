// One thread's groups in one operand.
#pragma once

#include <type_traits>

#include "partition.h"
#include "vector.cuh"

namespace betavae_fast::cuda {

// Where a group is: vector operands step from tile to tile, others look up every element.
template <bool vector>
using Spot = std::conditional_t<vector, int, Index>;

template <bool vector>
__device__ __forceinline__ Spot<vector> spot(const Problem& p, const Partition& cut, const Place& place, int tile) {
  if constexpr (vector)
    return tile;
  else
    return Index(p, place.first + tile * cut.tile_stride);
}

// Every group lies in one piece, aligned to 16 bytes: see vectorize().
template <class T, bool vector>
class Operand {
 public:
  __device__ __forceinline__ Operand(const Problem&, const Partition& cut, const View& view, int64_t row, Column column)
      : first_(static_cast<char*>(view.data) + column.offset(view, row) * int64_t{sizeof(T)}),
        step_(cut.tile_rows * view.row * int64_t{sizeof(T)}) {}

  // Elements past `count` read as 0.
  template <int n>
  __device__ __forceinline__ void load(int tile, int count, float (&x)[n]) const {
    const T* from = at(tile);
    if (count == n) return load_group(from, x);
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] = j < count ? widen(from[j]) : 0.0f;
  }
  template <int n>
  __device__ __forceinline__ void store(int tile, int count, const float (&x)[n]) const {
    T* to = at(tile);
    if (count == n) return store_group(to, x);
#pragma unroll
    for (int j = 0; j < n; ++j)
      if (j < count) narrow(x[j], to[j]);
  }

 private:
  __device__ __forceinline__ T* at(int tile) const { return reinterpret_cast<T*>(first_ + tile * step_); }

  char* first_;
  int64_t step_;
};

template <class T>
class Operand<T, false> {
 public:
  __device__ __forceinline__ Operand(const Problem& p, const Partition&, const View& view, int64_t, Column)
      : p_(p), view_(view) {}

  template <int n>
  __device__ __forceinline__ void load(Index index, int count, float (&x)[n]) const {
    const T* data = static_cast<const T*>(view_.data);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      x[j] = j < count ? widen(data[index.offset(view_)]) : 0.0f;
      index.next(p_);
    }
  }
  template <int n>
  __device__ __forceinline__ void store(Index index, int count, const float (&x)[n]) const {
    T* data = static_cast<T*>(view_.data);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      if (j < count) narrow(x[j], data[index.offset(view_)]);
      index.next(p_);
    }
  }

 private:
  const Problem& p_;
  const View& view_;
};

}  // namespace betavae_fast::cuda
