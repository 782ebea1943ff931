// The partition and the partial sums that a reduction needs.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

// The number of elements in a thread's group, which is 16 bytes.
inline int group_of(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

inline Keeps keeps_of(Reduction reduction) {
  return reduction == Reduction::dim ? Keeps::columns : reduction == Reduction::sample ? Keeps::rows : Keeps::nothing;
}

// The sums that a forward kernel writes: `outputs` sums of `count` terms each. If each has one term, they are the
// result.
struct Sums {
  int64_t outputs, output_stride, count, count_stride;
};
inline Sums sums_of(const Partition& cut, Reduction reduction) {
  if (reduction == Reduction::dim) return {cut.cols, 1, cut.items, cut.cols};
  if (reduction == Reduction::sample) return {cut.rows, cut.panels, cut.panels, 1};
  return {1, cut.ctas(), cut.ctas(), 1};
}

}  // namespace betavae_fast::cuda
