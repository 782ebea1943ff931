#include <cfloat>

#include "log_densities.cuh"

namespace betavae_fast::cuda {
namespace {

// A running maximum and the sum of 2^(term - maximum) (Milakov & Gimelshein 2018). The maximum is finite from the
// start, which avoids infinity - infinity. NaN never becomes the maximum, but makes the sum NaN.
struct LogSum {
  float maximum = -FLT_MAX, sum = 0.0f;

  template <int n>
  __device__ __forceinline__ void add(const float (&terms)[n]) {
    float highest = maximum, part = 0.0f;
#pragma unroll
    for (int k = 0; k < n; ++k) highest = fmaxf(highest, terms[k]);
    if (highest > maximum) {
      sum *= power_of_two(maximum - highest);
      maximum = highest;
    }
#pragma unroll
    for (int k = 0; k < n; ++k) part += power_of_two(terms[k] - maximum);
    sum += part;
  }

  __device__ __forceinline__ void merge(LogSum other) {
    const float highest = fmaxf(maximum, other.maximum);
    sum = sum * power_of_two(maximum - highest) + other.sum * power_of_two(other.maximum - highest);
    maximum = highest;
  }
};

// Merges the warps' sums of the CTA's rows in a fixed order, and writes them to `out` from index `to` on.
__device__ __forceinline__ void write(const LogSum (&of_rows)[own_each], const LogSums& out, int64_t to) {
  __shared__ LogSum shared[log_densities_warps * own];
#pragma unroll
  for (int r = 0; r < own_each; ++r) shared[warp() * own + lane() * own_each + r] = of_rows[r];
  __syncthreads();
  LogSum total = shared[threadIdx.x];
  for (int other = 1; other < log_densities_warps; ++other)
    total.merge(shared[other * own + static_cast<int>(threadIdx.x)]);
  out.maximum[to + threadIdx.x] = total.maximum;
  out.sum[to + threadIdx.x] = total.sum;
}

__global__ void __launch_bounds__(log_densities_threads) joint(const __grid_constant__ LogDensitiesForward p) {
  const int64_t row_tiles = p.row_stride / own, first_row = blockIdx.x % row_tiles * own,
                split = blockIdx.x / row_tiles;
  const int64_t row = first_row + lane() * own_each;
  const Splits& splits = p.of_joint.splits;
  LogSum of_rows[own_each];
#pragma unroll 1
  for (int64_t tile = splits.first_tile(split); tile < splits.last_tile(split); ++tile) {
    const int64_t posterior = tile * others + warp() * others_each;
    float terms[own_each][others_each], peaks[others_each];
    negated_squares(p, row, posterior, terms);
    load_group(p.peak_sum + posterior, peaks);
#pragma unroll
    for (int r = 0; r < own_each; ++r)
#pragma unroll
      for (int k = 0; k < others_each; ++k) terms[r][k] += peaks[k];
    if (has_own_weights(p, first_row, own, tile * others, others)) add_own_weights(p, row, posterior, terms);
#pragma unroll
    for (int r = 0; r < own_each; ++r) of_rows[r].add(terms[r]);
  }
  write(of_rows, p.of_joint, split * p.row_stride + first_row);
}

__global__ void __launch_bounds__(log_densities_threads) marginals(const __grid_constant__ LogDensitiesForward p) {
  const int64_t row_tiles = p.row_stride / own, first_row = blockIdx.x % row_tiles * own, item = blockIdx.x / row_tiles;
  const int64_t d = item % p.dims, split = item / p.dims, row = first_row + lane() * own_each;
  const Splits& splits = p.of_marginals.splits;
  LogSum of_rows[own_each];
  float z[own_each];
  load_group(p.z + d * p.row_stride + row, z);
#pragma unroll 1
  for (int64_t tile = splits.first_tile(split); tile < splits.last_tile(split); ++tile) {
    const int64_t posterior = tile * others + warp() * others_each, from = d * p.posterior_stride + posterior;
    float terms[own_each][others_each], mu[others_each], inverse[others_each], peaks[others_each];
    load_group(p.mu + from, mu);
    load_group(p.inverse_width + from, inverse);
    load_group(p.peak + from, peaks);
#pragma unroll
    for (int r = 0; r < own_each; ++r)
#pragma unroll
      for (int k = 0; k < others_each; ++k) {
        const float t = (z[r] - mu[k]) * inverse[k];
        terms[r][k] = fma_(-t, t, peaks[k]);
      }
    if (has_own_weights(p, first_row, own, tile * others, others)) add_own_weights(p, row, posterior, terms);
#pragma unroll
    for (int r = 0; r < own_each; ++r) of_rows[r].add(terms[r]);
  }
  write(of_rows, p.of_marginals, item * p.row_stride + first_row);
}

// Merges the splits' sums of one row, or of one row and dim, into its log-density. The sums are `stride` apart.
__device__ __forceinline__ double value(const LogSums& sums, int64_t at, int64_t stride, double weight) {
  LogSum total;
  for (int64_t split = 0; split < sums.splits.count; ++split, at += stride)
    total.merge({sums.maximum[at], sums.sum[at]});
  return ln_2<double> * (static_cast<double>(total.maximum) + std::log2(static_cast<double>(total.sum)) + weight);
}

// A thread owns one row of one dim, or of the joint, whose index follows the dims'.
__global__ void __launch_bounds__(log_densities_threads) finish(const __grid_constant__ LogDensitiesForward p) {
  const int64_t row_tiles = p.row_stride / own, row = blockIdx.x % row_tiles * own + threadIdx.x,
                d = blockIdx.x / row_tiles;
  if (row >= p.rows) return;
  if (d == p.dims)
    p.joint[row] = value(p.of_joint, row, p.row_stride, p.weights.all);
  else
    p.marginals[row * p.dims + d] = value(p.of_marginals, d * p.row_stride + row, p.dims * p.row_stride, p.weights.all);
}

}  // namespace

const char* log_densities_forward(const LogDensitiesForward& p, void* stream) {
  if (const char* error = prepare_inputs(p, stream)) return error;
  const int64_t row_tiles = p.row_stride / own;
  const auto joint_ctas = static_cast<unsigned>(row_tiles * p.of_joint.splits.count);
  const auto marginal_ctas = static_cast<unsigned>(row_tiles * p.dims * p.of_marginals.splits.count);
  const auto finish_ctas = static_cast<unsigned>(row_tiles * (p.dims + 1));
  joint<<<joint_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  if (p.dims > 0) marginals<<<marginal_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  finish<<<finish_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  return last_error();
}

}  // namespace betavae_fast::cuda
