#include "dispatch.cuh"
#include "reduce.h"

namespace betavae_fast::cuda {
namespace {

constexpr int reduce_threads = 1024;

// A CTA owns reduce_threads / lanes outputs, with `lanes` threads for each. Neighbouring threads read neighbouring
// partial sums, which belong to one output or to neighbouring outputs.
__global__ void __launch_bounds__(reduce_threads)
    reduce(const __grid_constant__ Partials p, int lanes, double scale, float* out) {
  __shared__ double shared[reduce_threads];
  const int outputs = reduce_threads / lanes, thread = static_cast<int>(threadIdx.x);
  const bool along = p.count_stride == 1;
  const int lane = along ? thread % lanes : thread / outputs, local = along ? thread / lanes : thread % outputs;
  const int64_t output = int64_t{blockIdx.x} * outputs + local;
  double sum = 0.0;
  if (output < p.outputs) {
    const float* from = p.data + output * p.output_stride;
#pragma unroll 4
    for (int64_t i = lane; i < p.count; i += lanes) sum += from[i * p.count_stride];
  }
  shared[local * lanes + lane] = sum;
  for (int width = lanes / 2; width > 0; width /= 2) {
    __syncthreads();
    if (lane < width) shared[local * lanes + lane] += shared[local * lanes + lane + width];
  }
  if (lane == 0 && output < p.outputs) out[output] = static_cast<float>(scale * shared[local * lanes]);
}

}  // namespace

const char* reduce_partials(const Partials& partials, double scale, float* out, void* stream) {
  // Eight neighbouring outputs fill one 32-byte sector. A single output gets all threads.
  int lanes = partials.outputs == 1 ? reduce_threads : reduce_threads / 8;
  while (lanes > 1 && lanes / 2 >= partials.count) lanes /= 2;
  const int64_t outputs = reduce_threads / lanes, ctas = (partials.outputs + outputs - 1) / outputs;
  reduce<<<static_cast<unsigned>(ctas), reduce_threads, 0, static_cast<cudaStream_t>(stream)>>>(partials, lanes, scale,
                                                                                                out);
  return last_error();
}

}  // namespace betavae_fast::cuda
