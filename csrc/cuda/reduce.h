// The partial sums of a reduction and the last step of a sum over CTAs, independent of torch.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

// The partial sums that a forward kernel writes: `count` for each of `outputs` sums. A single one is the sum itself.
struct Partials {
  int64_t outputs, output_stride;
  int64_t count, count_stride;
  const float* data = nullptr;
};

inline Partials partials_of(const Partition& partition, Reduction reduction) {
  if (reduction == Reduction::dim) return {partition.cols, 1, partition.items, partition.cols};
  if (reduction == Reduction::sample) return {partition.rows, partition.panels, partition.panels, 1};
  return {1, partition.ctas(), partition.ctas(), 1};
}

// Sets out[i] to scale times the sum of output i's partial sums. Returns null, or an error message.
const char* reduce_partials(const Partials& partials, double scale, float* out, void* stream);

}  // namespace betavae_fast::cuda
