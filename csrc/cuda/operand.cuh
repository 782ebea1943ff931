// Loads and stores one thread's groups of one operand.
#pragma once

#include "partition.h"
#include "vector.cuh"

namespace betavae_fast::cuda {

// An operand for which vectorize() holds: every group is contiguous and aligned. A pointer steps from tile to tile.
template <class T, bool vector>
class ThreadOperand {
 public:
  __device__ __forceinline__ ThreadOperand(const Problem&, const Tiled& view, const ThreadElements& thread,
                                           Column column)
      : at_(static_cast<char*>(view.data) + column.offset(view, thread.row) * int64_t{sizeof(T)}), step_(view.step) {}

  // Sets elements past `count` to 0.
  template <int n>
  __device__ __forceinline__ void load(int count, float (&x)[n]) const {
    const T* from = reinterpret_cast<const T*>(at_);
    if (count == n) return load_group(from, x);
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] = j < count ? widen(from[j]) : 0.0f;
  }
  template <int n>
  __device__ __forceinline__ void store(int count, const float (&x)[n]) const {
    T* to = reinterpret_cast<T*>(at_);
    if (count == n) return store_group(to, x);
#pragma unroll
    for (int j = 0; j < n; ++j)
      if (j < count) narrow(x[j], to[j]);
  }
  __device__ __forceinline__ void next_tile(int64_t) { at_ += step_; }

 private:
  char* at_;
  const int64_t& step_;
};

// An operand with any strides: the place of every element is computed.
template <class T>
class ThreadOperand<T, false> {
 public:
  __device__ __forceinline__ ThreadOperand(const Problem& p, const Tiled& view, const ThreadElements& thread, Column)
      : p_(p), view_(view), element_(thread.first) {}

  template <int n>
  __device__ __forceinline__ void load(int count, float (&x)[n]) const {
    const T* data = static_cast<const T*>(view_.data);
    Index index(p_, element_);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      x[j] = j < count ? widen(data[index.offset(view_)]) : 0.0f;
      index.next(p_);
    }
  }
  template <int n>
  __device__ __forceinline__ void store(int count, const float (&x)[n]) const {
    T* data = static_cast<T*>(view_.data);
    Index index(p_, element_);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      if (j < count) narrow(x[j], data[index.offset(view_)]);
      index.next(p_);
    }
  }
  __device__ __forceinline__ void next_tile(int64_t elements) { element_ += elements; }

 private:
  const Problem& p_;
  const View& view_;
  int64_t element_;
};

// Loads one group of each operand. Full groups are loaded in one branch, so that the second load is issued before the
// first returns.
template <class A, class B, int n>
__device__ __forceinline__ void load_both(const A& a, const B& b, int count, float (&x)[n], float (&y)[n]) {
  if (count == n) {
    a.load(n, x);
    b.load(n, y);
  } else {
    a.load(count, x);
    b.load(count, y);
  }
}
template <class A, class T, int n>
__device__ __forceinline__ void load_both(const A& a, const ThreadOperand<T, false>& b, int count, float (&x)[n],
                                          float (&y)[n]) {
  a.load(count, x);
  b.load(count, y);
}

}  // namespace betavae_fast::cuda
