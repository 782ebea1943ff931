#include <cfloat>

#include "total_correlation.cuh"

namespace betavae_fast::cuda {
namespace {

// A CTA prepares 32 neighbouring rows or posteriors, and each of its warps one dim after the other.
constexpr int neighbours = 32;

template <class T>
__global__ void __launch_bounds__(mixture_threads) prepare_rows(const __grid_constant__ Mixture p) {
  const int64_t row = int64_t{blockIdx.x} * neighbours + lane();
  for (int64_t d = warp(); d < p.dims; d += mixture_warps)
    p.z[d * p.row_stride + row] = row < p.rows ? number<T>(p.z_in, row, d) : 0.0f;
}

// Padded posteriors have a density of 0 for every z, even an infinite one.
template <class T>
__global__ void __launch_bounds__(mixture_threads) prepare_posteriors(const __grid_constant__ Mixture p) {
  __shared__ double sums[mixture_threads];
  const int64_t posterior = int64_t{blockIdx.x} * neighbours + lane();
  double sum = 0.0;
  for (int64_t d = warp(); d < p.dims; d += mixture_warps) {
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
  for (int other = 1; other < mixture_warps; ++other) sum += sums[other * neighbours + lane()];
  p.peak_sum[posterior] = posterior < p.posteriors ? static_cast<float>(sum) : -INFINITY;
}

// The logarithm that is subtracted from a row's terms, in base 2. For a row infinitely far from every posterior it is
// the largest float, so that no posterior is responsible.
__device__ __forceinline__ float in_base_2(double value, double weight) {
  return std::fabs(value) == INFINITY ? FLT_MAX : static_cast<float>(log2_e<double> * value - weight);
}

__global__ void __launch_bounds__(mixture_threads) prepare_subtrahends(const __grid_constant__ MixtureBackward p) {
  const int64_t row = int64_t{blockIdx.x} * neighbours + lane();
  const bool inside = row < p.rows;
  for (int64_t d = warp(); d < p.dims; d += mixture_warps)
    p.marginals[d * p.row_stride + row] =
        inside ? in_base_2(number<double>(p.marginals_in, row, d), p.weights.all) : FLT_MAX;
  if (warp() == 0) p.joint[row] = inside ? in_base_2(number<double>(p.joint_in, row, 0), p.weights.all) : FLT_MAX;
}

}  // namespace

const char* prepare_mixture(const Mixture& p, void* stream) {
  return with_element(p.dtype, [&](auto element) {
    const auto rows = prepare_rows<decltype(element)>;
    const auto posteriors = prepare_posteriors<decltype(element)>;
    const auto row_ctas = static_cast<unsigned>(p.row_stride / neighbours);
    const auto posterior_ctas = static_cast<unsigned>(p.posterior_stride / neighbours);
    rows<<<row_ctas, mixture_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    posteriors<<<posterior_ctas, mixture_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

const char* prepare_log_densities(const MixtureBackward& p, void* stream) {
  const auto ctas = static_cast<unsigned>(p.row_stride / neighbours);
  prepare_subtrahends<<<ctas, mixture_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  return last_error();
}

}  // namespace betavae_fast::cuda
