// How a reduction cuts a batch, and how its partial sums lie in memory.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

// Elements of a thread's group: 16 bytes.
inline int group_of(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

inline Keeps keeps_of(Reduction reduction) {
  return reduction == Reduction::dim ? Keeps::columns : reduction == Reduction::sample ? Keeps::rows : Keeps::nothing;
}

// What a forward kernel writes: `outputs` sums, each of `count` terms. With one term each they are the result.
struct Sums {
  int64_t outputs, output_stride, count, count_stride;
};
inline Sums sums_of(const Partition& cut, Reduction reduction) {
  if (reduction == Reduction::dim) return {cut.cols, 1, cut.items, cut.cols};
  if (reduction == Reduction::sample) return {cut.rows, cut.panels, cut.panels, 1};
  return {1, cut.ctas(), cut.ctas(), 1};
}

}  // namespace betavae_fast::cuda
