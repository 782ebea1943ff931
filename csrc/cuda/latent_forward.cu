#include "../include/latent.h"
#include "dispatch.cuh"
#include "latent.h"
#include "noise.cuh"
#include "operand.cuh"
#include "reduce.cuh"

namespace betavae_fast::cuda {
namespace {

// The floats of shared memory that the KL's sums take.
template <int group>
BVF_INLINE constexpr int shared_floats(Reduction want_kl) {
  if (want_kl == Reduction::sample) return 2 * cta_threads * group;
  return want_kl == Reduction::dim ? cta_threads * group : 4;
}

// want_kl: `none` writes each element's KL. `dim` sums it down the columns, in registers and at the end by the CTA; the
// scalar reductions do the same and then add up the columns. `sample` sums it along the rows, by the CTA in every tile.
//
// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. mu, log sigma^2
// and given noise are read once, z is written once, and the sums go to the CTA's own partial sums.
template <class T, bool vector, bool want_z, Reduction want_kl>
__global__ void __launch_bounds__(cta_threads) forward(const __grid_constant__ LatentForward p) {
  constexpr int group = group_size<T>;
  __shared__ __align__(16) float shared[shared_floats<group>(want_kl)];
  const ThreadElements thread = p.partition.thread_elements(blockIdx.x, threadIdx.x);
  const Column column(p.problem, thread.col);
  ThreadOperand<T, vector> mu_in(p.problem, p.mu, thread, column);
  ThreadOperand<T, vector> logvar_in(p.problem, p.logvar, thread, column);
  ThreadOperand<T, vector> given_in(p.problem, p.noise, thread, column);
  ThreadOperand<T, vector> z_out(p.problem, p.z, thread, column);
  ThreadOperand<float, vector> kl_out(p.problem, p.kl, thread, column);
  Noise<vector> noise(want_z ? p.rng : nullptr, p.first_element + thread.first, p.partition.tile_stride);
  float sums[group] = {};
  const RowSums<group> row_sums(p.partition);
#pragma unroll 1
  for (int tile = 0; tile < thread.tiles; ++tile) {
    const int count = thread.count(tile);
    float element_kl[group] = {};
    if (count > 0) {
      float mu[group], logvar[group], eps[group], z[group];
      load_both(mu_in, logvar_in, count, mu, logvar);
      if (p.clamps) {
#pragma unroll
        for (int j = 0; j < group; ++j) logvar[j] = clamp_(logvar[j], p.settings.logvar_min, p.settings.logvar_max);
      }
      if constexpr (want_z) {
        if (p.noise.data)
          given_in.load(count, eps);
        else
          noise.draw(eps);
      }
#pragma unroll
      for (int j = 0; j < group; ++j) {
        const Spread<float> s = spread(logvar[j]);
        if constexpr (want_z) z[j] = sample(mu[j], s, eps[j]);
        if constexpr (want_kl != Reduction::absent) element_kl[j] = kl(mu[j], s);
      }
      if (vector && count == group) {
        if constexpr (want_z) z_out.store(group, z);
      } else {
        if constexpr (want_z) z_out.store(count, z);
        if constexpr (want_kl == Reduction::dim || want_kl == Reduction::sample) {
#pragma unroll
          for (int j = 0; j < group; ++j)
            if (j >= count) element_kl[j] = 0.0f;
        }
      }
      if constexpr (want_kl == Reduction::none) kl_out.store(count, element_kl);
      if constexpr (want_kl == Reduction::dim) {
#pragma unroll
        for (int j = 0; j < group; ++j) sums[j] += element_kl[j];
      }
    }
    mu_in.next_tile(p.partition.tile_stride);
    logvar_in.next_tile(p.partition.tile_stride);
    if (want_z) given_in.next_tile(p.partition.tile_stride);
    if (want_z) z_out.next_tile(p.partition.tile_stride);
    if (want_kl == Reduction::none) kl_out.next_tile(p.partition.tile_stride);
    noise.next_tile();
    if constexpr (want_kl == Reduction::sample) {
      const int64_t row = (thread.item * p.partition.item_tiles + tile) * p.partition.tile_rows;
      row_sums.of_tile(element_kl, shared + tile % 2 * cta_threads * group, [&](int local, float sum) {
        if (row + local < p.partition.rows) p.partials[(row + local) * p.partition.panels + thread.panel] = sum;
      });
    }
  }
  if constexpr (want_kl == Reduction::dim) {
    if (p.reduction == Reduction::dim) {
      const int64_t first_col = thread.panel * p.partition.tile_cols;
      sum_columns(p.partition, sums, shared, [&](int local, float sum) {
        if (first_col + local < p.partition.cols)
          p.partials[thread.item * p.partition.cols + first_col + local] = static_cast<float>(p.scale * sum);
      });
    } else {
      const float sum = sum_cta(sum_group(sums), shared);
      if (threadIdx.x == 0) p.partials[blockIdx.x] = static_cast<float>(p.scale * sum);
    }
  }
}

template <class T, bool vector, bool want_z>
auto choose(const LatentForward& p) {
  if constexpr (want_z) {
    if (!p.kl.data && !p.partials) return forward<T, vector, true, Reduction::absent>;
  }
  if (p.kl.data) return forward<T, vector, want_z, Reduction::none>;
  if (p.reduction == Reduction::sample) return forward<T, vector, want_z, Reduction::sample>;
  return forward<T, vector, want_z, Reduction::dim>;
}

template <class T, bool vector>
const char* launch(const LatentForward& p, cudaStream_t stream) {
  const auto kernel = p.z.data ? choose<T, vector, true>(p) : choose<T, vector, false>(p);
  kernel<<<static_cast<unsigned>(p.partition.ctas()), cta_threads, 0, stream>>>(p);
  return last_error();
}

}  // namespace

const char* latent_forward(const LatentForward& p, void* stream) {
  return with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    return p.vector ? launch<T, true>(p, cuda_stream) : launch<T, false>(p, cuda_stream);
  });
}

}  // namespace betavae_fast::cuda
