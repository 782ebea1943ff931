#include "../include/latent.h"
#include "latent.h"
#include "launch.cuh"
#include "noise.cuh"
#include "operand.cuh"
#include "reduce.cuh"

namespace betavae_fast::cuda {
namespace {

// The use of the KL: absent; each element's KL is written; it is summed down the columns, in registers and at the end
// by the CTA (reduction "dim" and the scalar reductions); or it is summed along the rows, by the CTA in every tile
// ("sample").
enum class Kl { absent, each, columns, rows };

// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. mu, log sigma^2
// and given noise are read once, z is written once, and the sums go to the CTA's own partial sums.
template <class T, bool vector, bool want_z, Kl want_kl>
__global__ void __launch_bounds__(cta_threads) forward(const __grid_constant__ LatentForward p) {
  constexpr int group = group_size<T>;
  __shared__ __align__(16) float shared[want_kl == Kl::rows      ? 2 * cta_threads * group
                                        : want_kl == Kl::columns ? cta_threads * group
                                                                 : 4];
  const Place place = p.cut.place(blockIdx.x, threadIdx.x);
  const Column column(p.problem, place.col);
  Operand<T, vector> mu_in(p.problem, p.mu, place, column);
  Operand<T, vector> logvar_in(p.problem, p.logvar, place, column);
  Operand<T, vector> given_in(p.problem, p.noise, place, column);
  Operand<T, vector> z_out(p.problem, p.z, place, column);
  Operand<float, vector> kl_out(p.problem, p.kl, place, column);
  Noise<vector> noise(want_z ? p.rng : nullptr, p.first_element + place.first, p.cut.tile_stride);
  float sums[group] = {};
  const RowSums<group> row_sums(p.cut);
#pragma unroll 1
  for (int tile = 0; tile < place.tiles; ++tile) {
    const int count = place.count(tile);
    float element_kl[group] = {};
    if (count > 0) {
      float mu[group], logvar[group], eps[group], z[group];
      load_both(mu_in, logvar_in, count, mu, logvar);
      if (p.clamps) {
#pragma unroll
        for (int j = 0; j < group; ++j) logvar[j] = clamp_(logvar[j], p.logvar_min, p.logvar_max);
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
        if constexpr (want_kl != Kl::absent) element_kl[j] = kl(mu[j], s);
      }
      if (vector && count == group) {
        if constexpr (want_z) z_out.store(group, z);
      } else {
        if constexpr (want_z) z_out.store(count, z);
        if constexpr (want_kl == Kl::columns || want_kl == Kl::rows) {
#pragma unroll
          for (int j = 0; j < group; ++j)
            if (j >= count) element_kl[j] = 0.0f;
        }
      }
      if constexpr (want_kl == Kl::each) kl_out.store(count, element_kl);
      if constexpr (want_kl == Kl::columns) {
#pragma unroll
        for (int j = 0; j < group; ++j) sums[j] += element_kl[j];
      }
    }
    mu_in.next_tile(p.cut.tile_stride);
    logvar_in.next_tile(p.cut.tile_stride);
    if (want_z) given_in.next_tile(p.cut.tile_stride);
    if (want_z) z_out.next_tile(p.cut.tile_stride);
    if (want_kl == Kl::each) kl_out.next_tile(p.cut.tile_stride);
    noise.next_tile();
    if constexpr (want_kl == Kl::rows) {
      const int64_t row = (place.item * p.cut.item_tiles + tile) * p.cut.tile_rows;
      row_sums.of_tile(element_kl, shared + tile % 2 * cta_threads * group, [&](int local, float sum) {
        if (row + local < p.cut.rows) p.sums[(row + local) * p.cut.panels + place.panel] = sum;
      });
    }
  }
  if constexpr (want_kl == Kl::columns) {
    if (p.reduction == Reduction::dim) {
      const int64_t first_col = place.panel * p.cut.tile_cols;
      sum_columns(p.cut, sums, shared, [&](int local, float sum) {
        if (first_col + local < p.cut.cols)
          p.sums[place.item * p.cut.cols + first_col + local] = static_cast<float>(p.scale * sum);
      });
    } else {
      const float sum = sum_cta(sum_group(sums), shared);
      if (threadIdx.x == 0) p.sums[blockIdx.x] = static_cast<float>(p.scale * sum);
    }
  }
}

template <class T, bool vector, bool want_z>
auto choose(const LatentForward& p) {
  if (p.kl.data) return forward<T, vector, want_z, Kl::each>;
  return p.reduction == Reduction::sample ? forward<T, vector, want_z, Kl::rows>
                                          : forward<T, vector, want_z, Kl::columns>;
}

template <class T, bool vector>
const char* launch(const LatentForward& p, cudaStream_t stream) {
  const auto kernel = !p.z.data               ? choose<T, vector, false>(p)
                      : !p.kl.data && !p.sums ? forward<T, vector, true, Kl::absent>
                                              : choose<T, vector, true>(p);
  kernel<<<static_cast<unsigned>(p.cut.ctas()), cta_threads, 0, stream>>>(p);
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
