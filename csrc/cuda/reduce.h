// The last step of a sum over CTAs, independent of torch.
#pragma once

#include <cstdint>

namespace betavae_fast::cuda {

// Partial sums laid out in memory: `outputs` sums of `count` terms each.
struct Partials {
  const float* data;
  int64_t outputs, output_stride;
  int64_t count, count_stride;
};

// Sets out[i] to scale times the sum of output i's partial sums. Returns null, or an error message.
const char* reduce_partials(const Partials& partials, double scale, float* out, void* stream);

}  // namespace betavae_fast::cuda
