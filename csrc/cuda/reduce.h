// The last step of a sum over CTAs, free of torch.
#pragma once

#include <cstdint>

namespace betavae_fast::cuda {

// Partial sums laid out in memory: `outputs` sums of `count` terms each.
struct Partials {
  const float* data;
  int64_t outputs, output_stride;
  int64_t count, count_stride;
};

// out[i] = scale * (the sum of output i's partials). Returns null, or what went wrong.
const char* reduce_partials(const Partials& partials, double scale, float* out, void* stream);

}  // namespace betavae_fast::cuda
