#include "log_densities.cuh"

namespace betavae_fast::cuda {
namespace {

// The side whose gradients a CTA sums; the CTA streams the other side.
enum class Owner { rows, posteriors };

// The rows and posteriors of a CTA's tiles. On the owned side, rows_each or posteriors_each is the number per lane; on
// the streamed side, the number per warp.
template <Owner owner>
struct Side {
  static constexpr bool owns_rows = owner == Owner::rows;
  static constexpr int rows_each = owns_rows ? own_each : others_each,
                       posteriors_each = owns_rows ? others_each : own_each;

  int64_t first_own, first_other;  // first of the CTA's tiles

  __device__ __forceinline__ int64_t row(int other) const {
    return owns_rows ? first_own + lane() * own_each : first_other + other;
  }
  __device__ __forceinline__ int64_t posterior(int other) const {
    return owns_rows ? first_other + other : first_own + lane() * own_each;
  }
  __device__ __forceinline__ bool has_own_weights(const LogDensitiesProblem& p) const {
    return owns_rows ? cuda::has_own_weights(p, first_own, own, first_other, others)
                     : cuda::has_own_weights(p, first_other, others, first_own, own);
  }
};

// Writes the joint's responsibilities p_ij of the CTA's tiles to `shared`, as [other][own]. If rows are owned, it also
// adds them to `mass`; if posteriors are owned, it writes g_i p_ij instead.
template <Owner owner>
__device__ __forceinline__ void share_joint(const LogDensitiesBackward& p, const Side<owner>& side, bool weighted,
                                            float* shared, float (&mass)[own_each]) {
  constexpr int rows = Side<owner>::rows_each, posteriors = Side<owner>::posteriors_each;
  const int64_t row = side.row(warp() * others_each), posterior = side.posterior(warp() * others_each);
  float terms[rows][posteriors], peaks[posteriors], minus[rows], grad[rows] = {};
  negated_squares(p, row, posterior, terms);
  load_group(p.peak_sum + posterior, peaks);
  load_group(p.joint + row, minus);
  if constexpr (owner == Owner::posteriors) load_group(p.grad_joint + row, grad);
  if (weighted) add_own_weights(p, row, posterior, terms);
#pragma unroll
  for (int other = 0; other < others_each; ++other) {
    float result[own_each];
#pragma unroll
    for (int mine = 0; mine < own_each; ++mine) {
      const int r = owner == Owner::rows ? mine : other, k = owner == Owner::rows ? other : mine;
      result[mine] = power_of_two(terms[r][k] + peaks[k] - minus[r]);
      if constexpr (owner == Owner::rows)
        mass[mine] += result[mine];
      else
        result[mine] *= grad[r];
    }
    store_group(shared + (warp() * others_each + other) * own + lane() * own_each, result);
  }
}

// Adds the terms of one dim of the CTA's tiles to `sums`.
template <Owner owner>
__device__ __forceinline__ void add_dim(const LogDensitiesBackward& p, const Side<owner>& side, int64_t d,
                                        bool weighted, const float* shared, float (&sums)[kept_sums][own_each]) {
  constexpr int n = own_each;  // number of rows, and of posteriors, that are taken at once
  float z[n], grad[n] = {}, minus[n], mu[n], inverse[n], peaks[n];
  const auto load_rows = [&](int64_t row) {
    load_group(p.z + d * p.row_stride + row, z);
    if constexpr (owner == Owner::posteriors) load_group(p.grad_marginals + d * p.row_stride + row, grad);
    load_group(p.marginals + d * p.row_stride + row, minus);
  };
  const auto load_posteriors = [&](int64_t posterior) {
    load_group(p.mu + d * p.posterior_stride + posterior, mu);
    load_group(p.inverse_width + d * p.posterior_stride + posterior, inverse);
    load_group(p.peak + d * p.posterior_stride + posterior, peaks);
  };
  if constexpr (owner == Owner::rows)
    load_rows(side.row(0));
  else
    load_posteriors(side.posterior(0));
#pragma unroll 1
  for (int first = 0; first < others; first += n) {
    if constexpr (owner == Owner::rows)
      load_posteriors(side.posterior(first));
    else
      load_rows(side.row(first));
    float t[n][n], terms[n][n];
#pragma unroll
    for (int r = 0; r < n; ++r)
#pragma unroll
      for (int k = 0; k < n; ++k) {
        t[r][k] = (z[r] - mu[k]) * inverse[k];
        terms[r][k] = fma_(-t[r][k], t[r][k], peaks[k]) - minus[r];
      }
    if (weighted) add_own_weights(p, side.row(first), side.posterior(first), terms);
#pragma unroll
    for (int other = 0; other < n; ++other) {
      float together[n];
      load_group(shared + (first + other) * own + lane() * own_each, together);
#pragma unroll
      for (int mine = 0; mine < n; ++mine) {
        const int r = owner == Owner::rows ? mine : other, k = owner == Owner::rows ? other : mine;
        const float alone = power_of_two(terms[r][k]);
        if constexpr (owner == Owner::rows) {
          sums[0][mine] = fma_(together[mine] * t[r][k], inverse[k], sums[0][mine]);
          sums[1][mine] = fma_(alone * t[r][k], inverse[k], sums[1][mine]);
          sums[2][mine] += alone;
        } else {
          const float w = fma_(grad[r], alone, together[mine]), wt = w * t[r][k];
          sums[0][mine] += w;
          sums[1][mine] += wt;
          sums[2][mine] = fma_(wt, t[r][k], sums[2][mine]);
        }
      }
    }
  }
}

// A CTA takes the tiles of its split in order. In each tile, it first computes what all dims share, and then each warp
// takes dims of its own. A thread's sums of all dims do not fit into registers, so it keeps them in memory, where no
// other thread reads them.
template <Owner owner>
__global__ void __launch_bounds__(log_densities_threads) sweep(const __grid_constant__ LogDensitiesBackward p) {
  __shared__ __align__(16) float shared[others * own];
  using Sides = Side<owner>;
  const Splits& splits = Sides::owns_rows ? p.of_rows : p.of_posteriors;
  const int64_t stride = Sides::owns_rows ? p.row_stride : p.posterior_stride, own_tiles = stride / own;
  const int64_t first_own = blockIdx.x % own_tiles * own, split = blockIdx.x / own_tiles;
  float* const kept = (Sides::owns_rows ? p.row_sums : p.posterior_sums) + split * kept_sums * p.dims * stride +
                      first_own + lane() * own_each;
  float joint_mass[own_each] = {};
#pragma unroll 1
  for (int64_t tile = splits.first_tile(split); tile < splits.last_tile(split); ++tile) {
    const Sides side = {first_own, tile * others};
    const bool weighted = side.has_own_weights(p);
    share_joint(p, side, weighted, shared, joint_mass);
    __syncthreads();
#pragma unroll 1
    for (int64_t d = warp(); d < p.dims; d += log_densities_warps) {
      float sums[kept_sums][own_each] = {};
      add_dim(p, side, d, weighted, shared, sums);
#pragma unroll
      for (int s = 0; s < kept_sums; ++s) {
        float* const to = kept + (s * p.dims + d) * stride;
        if (tile > splits.first_tile(split)) {
          float before[own_each];
          load_group(to, before);
#pragma unroll
          for (int k = 0; k < own_each; ++k) sums[s][k] += before[k];
        }
        store_group(to, sums[s]);
      }
    }
    __syncthreads();
  }
  if constexpr (Sides::owns_rows) {
    store_group(shared + warp() * own + lane() * own_each, joint_mass);
    __syncthreads();
    float mass = 0.0f;
    for (int k = 0; k < log_densities_warps; ++k) mass += shared[k * own + threadIdx.x];
    p.joint_mass[split * stride + first_own + threadIdx.x] = mass;
  }
}

__device__ __forceinline__ double total(const float* parts, int64_t splits, int64_t stride) {
  double sum = 0.0;
  for (int64_t split = 0; split < splits; ++split) sum += static_cast<double>(parts[split * stride]);
  return sum;
}

// A row infinitely far from every posterior has no responsibilities to normalise, and no gradient.
__device__ __forceinline__ double divided(double grad, double mass) { return mass == 0.0 ? 0.0 : grad / mass; }

// A thread owns one element of the gradients. The gradients of padded rows are 0.
template <class T>
__global__ void __launch_bounds__(log_densities_threads) finish_rows(const __grid_constant__ LogDensitiesBackward p) {
  const int64_t tiles = p.row_stride / own, row = blockIdx.x % tiles * own + threadIdx.x, d = blockIdx.x / tiles;
  const int64_t at = d * p.row_stride + row, kind = p.dims * p.row_stride;
  double of_joint = 0.0, of_marginal = 0.0;
  if (row < p.rows) {
    const auto sum = [&](int s) { return total(p.row_sums + s * kind + at, p.of_rows.count, kept_sums * kind); };
    of_joint =
        divided(number<double>(p.grad_joint_in, row, 0), total(p.joint_mass + row, p.of_rows.count, p.row_stride));
    of_marginal = divided(number<double>(p.grad_marginals_in, row, d), sum(2));
    const double pull = of_joint * sum(0) + of_marginal * sum(1);
    narrow(static_cast<float>(-pull / (k_scale<double> * k_scale<double>)),
           static_cast<T*>(p.grad_z)[row * p.dims + d]);
  }
  p.grad_marginals[at] = static_cast<float>(of_marginal);
  if (d == 0) p.grad_joint[row] = static_cast<float>(of_joint);
}

template <class T>
__global__ void __launch_bounds__(log_densities_threads)
    finish_posteriors(const __grid_constant__ LogDensitiesBackward p) {
  const int64_t tiles = p.posterior_stride / own, posterior = blockIdx.x % tiles * own + threadIdx.x,
                d = blockIdx.x / tiles;
  if (posterior >= p.posteriors) return;
  const int64_t from = d * p.posterior_stride + posterior, to = posterior * p.dims + d,
                kind = p.dims * p.posterior_stride;
  const auto sum = [&](int s) {
    return total(p.posterior_sums + s * kind + from, p.of_posteriors.count, kept_sums * kind);
  };
  const double inverse = p.inverse_width[from];
  narrow(static_cast<float>(sum(1) * inverse / (k_scale<double> * k_scale<double>)), static_cast<T*>(p.grad_mu)[to]);
  narrow(static_cast<float>(ln_2<double> * sum(2) - 0.5 * sum(0)), static_cast<T*>(p.grad_logvar)[to]);
}

}  // namespace

const char* log_densities_backward(const LogDensitiesBackward& p, void* stream) {
  if (const char* error = prepare_inputs(p, stream)) return error;
  if (const char* error = prepare_logs(p, stream)) return error;
  return with_element(p.dtype, [&](auto element) {
    const auto rows = sweep<Owner::rows>;
    const auto posteriors = sweep<Owner::posteriors>;
    const auto finished_rows = finish_rows<decltype(element)>;
    const auto finished_posteriors = finish_posteriors<decltype(element)>;
    const int64_t row_tiles = p.row_stride / own, posterior_tiles = p.posterior_stride / own;
    const auto row_ctas = static_cast<unsigned>(row_tiles * p.of_rows.count);
    const auto row_elements = static_cast<unsigned>(row_tiles * p.dims);
    const auto posterior_ctas = static_cast<unsigned>(posterior_tiles * p.of_posteriors.count);
    const auto posterior_elements = static_cast<unsigned>(posterior_tiles * p.dims);
    rows<<<row_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    finished_rows<<<row_elements, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    posteriors<<<posterior_ctas, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    finished_posteriors<<<posterior_elements, log_densities_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

}  // namespace betavae_fast::cuda
