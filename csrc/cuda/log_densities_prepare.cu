#include <cfloat>

#include "log_densities.cuh"

namespace betavae_fast::cuda {
namespace {

// A CTA prepares 32 neighbouring rows or posteriors, and each of its warps one dim after the other.
constexpr int neighbours = 32;

template <class T>
__global__ void __launch_bounds__(log_densities_threads) prepare_rows(const __grid_constant__ LogDensitiesProblem p) {
  const int64_t row = int64_t{blockIdx.x} * neighbours + lane();
  for (int64_t d = warp(); d < p.dims; d += log_densities_warps)
    p.z[d * p.row_stride + row] = row < p.rows ? number<T>(p.z_in, row, d) : 0.0f;
}

// Padded posteriors have a density of 0 for every z, even an infinite one.
template <class T>
__global__ void __launch_bounds__(log_densities_threads)
    prepare_posteriors(const __grid_constant__ LogDensitiesProblem p) {
  __shared__ double sums[log_densities_threads];
  const int64_t posterior = int64_t{blockIdx.x} * neighbours + lane();
  double sum = 0.0;
  for (int64_t d = warp(); d < p.dims; d += log_densities_warps) {
    const int64_t to = d * p.posterior_stride + posterior;
    float center = 0.0f, inverse = 1.0f, height = -INFINITY;
    if (posterior < p.posteriors) {
      const float logvar = number<T>(p.logvar_in, posterior, d);
      center = number<T>(p.mu_in, posterior, d);
      inverse = static_cast<float>(inverse_width(logvar));
      height = static_cast<float>(peak(logvar));
    }
    p.mu[to] = center;
    p.inverse_width[to] = inverse;
    p.peak[to] = height;
    sum += height;
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp() > 0) return;
  for (int other = 1; other < log_densities_warps; ++other) sum += sums[other * neighbours + lane()];
  p.peak_sum[posterior] = posterior < p.posteriors ? static_cast<float>(sum) : -INFINITY;
}

// The logarithm that is subtracted from a row's terms, in base 2. For a row infinitely far from every posterior it is
// the largest float, so that no posterior is responsible.
__device__ __forceinline__ float in_base_2(double value, double weight) {
  return std::fabs(value) == INFINITY ? FLT_MAX : static_cast<float>(log2_e<double> * value - weight);
}

__global__ void __launch_bounds__(log_densities_threads)
    prepare_subtrahends(const __grid_constant__ LogDensitiesBackward p) {
  const int64_t row = int64_t{blockIdx.x} * neighbours + lane();
  const bool inside = row < p.rows;
  for (int64_t d = warp(); d < p.dims; d += log_densities_warps)
    p.marginals[d * p.row_stride + row] =
        inside ? in_base_2(number<double>(p.marginals_in, row, d), p.weights.all) : FLT_MAX;
  if (warp() == 0) p.joint[row] = inside ? in_base_2(number<double>(p.joint_in, row, 0), p.weights.all) : FLT_MAX;
}

}  // namespace

const char* prepare_inputs(const LogDensitiesProblem& p, void* stream) {
  return with_element(p.dtype, [&](auto element) {
    const auto rows = prepare_rows<decltype(element)>;
    const auto posteriors = prepare_posteriors<decltype(element)>;
    const auto row_ctas = static_cast<unsigned>(p.row_stride / neighbours);
    const auto posterior_ctas = static_cast<unsigned>(p.posterior_stride / neighbours);
    rows<<<row_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    posteriors<<<posterior_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

const char* prepare_logs(const LogDensitiesBackward& p, void* stream) {
  const auto ctas = static_cast<unsigned>(p.row_stride / neighbours);
  prepare_subtrahends<<<ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  return last_error();
}

}  // namespace betavae_fast::cuda
