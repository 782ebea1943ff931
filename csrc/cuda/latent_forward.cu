#include "latent.cuh"

#include "../include/latent.h"
#include "noise.cuh"
#include "operand.cuh"
#include "reduce.cuh"

namespace betavae_fast::cuda {
namespace {

// A CTA owns one item of the partition, a thread the same columns in each of its tiles. Per element: mu, log sigma^2 (and
// noise) are read once, z is written once; the KL's sums stay in registers and end in the CTA's own partials.
template <class T, bool vector, bool want_z, bool want_kl>
__global__ void __launch_bounds__(cta_threads) forward(const __grid_constant__ LatentForward p) {
  constexpr int group = group_size<T>;
  __shared__ __align__(16) float shared[want_kl ? 2 * cta_threads * group : 1];
  const Place place = p.cut.place(blockIdx.x, threadIdx.x);
  NoiseKey key = {};
  if (want_z && p.rng) key = read_key(p.rng);
  const Column column(p.problem, place.col);
  const Operand<T, vector> mu_in(p.problem, p.cut, p.mu, place.row, column);
  const Operand<T, vector> logvar_in(p.problem, p.cut, p.logvar, place.row, column);
  const Operand<T, vector> noise_in(p.problem, p.cut, p.noise, place.row, column);
  const Operand<T, vector> z_out(p.problem, p.cut, p.z, place.row, column);
  const Operand<float, vector> kl_out(p.problem, p.cut, p.kl, place.row, column);
  const uint64_t first = static_cast<uint64_t>(p.first_element + place.first);
  float sums[group] = {};
#pragma unroll 1
  for (int tile = 0; tile < place.tiles; ++tile) {
    const int count = place.count(tile);
    float element_kl[group] = {};
    if (count > 0) {
      float mu[group], logvar[group], eps[group], z[group];
      const Spot<vector> at = spot<vector>(p.problem, p.cut, place, tile);
      mu_in.load(at, count, mu);
      logvar_in.load(at, count, logvar);
      if constexpr (want_z) {
        const uint64_t element = first + static_cast<uint64_t>(tile * p.cut.tile_stride);
        if (p.noise.data)
          noise_in.load(at, count, eps);
        else if constexpr (vector)
          draw(key, element, eps);
        else
          draw_anywhere(key, element, eps);
      }
#pragma unroll
      for (int j = 0; j < group; ++j) {
        const Spread<float> s = spread(clamp_(logvar[j], p.logvar_min, p.logvar_max));
        if constexpr (want_z) z[j] = sample(mu[j], s, eps[j]);
        if constexpr (want_kl) element_kl[j] = kl(mu[j], s);
      }
      if constexpr (want_z) z_out.store(at, count, z);
      if constexpr (want_kl) {
        if (p.reduction == KlReduction::none) {
          kl_out.store(at, count, element_kl);
        } else {
          if (count < group)
#pragma unroll
            for (int j = 0; j < group; ++j)
              if (j >= count) element_kl[j] = 0.0f;
#pragma unroll
          for (int j = 0; j < group; ++j) sums[j] += element_kl[j];
        }
      }
    }
    if constexpr (want_kl) {
      if (p.reduction == KlReduction::sample) {
        const int64_t row = (place.item * p.cut.item_tiles + tile) * p.cut.tile_rows;
        sum_rows(p.cut, element_kl, shared + tile % 2 * cta_threads * group, [&](int local, float sum) {
          if (row + local < p.cut.rows) p.sums[(row + local) * p.cut.panels + place.panel] = sum;
        });
      }
    }
  }
  if constexpr (want_kl) {
    if (p.reduction == KlReduction::dim) {
      const int64_t first = place.panel * p.cut.tile_cols;
      sum_columns(p.cut, sums, shared, [&](int local, float sum) {
        if (first + local < p.cut.cols)
          p.sums[place.item * p.cut.cols + first + local] = static_cast<float>(p.scale * sum);
      });
    } else if (p.reduction == KlReduction::batchmean || p.reduction == KlReduction::sum) {
      const float sum = sum_cta(sum_group(sums), shared);
      if (threadIdx.x == 0) p.sums[blockIdx.x] = static_cast<float>(p.scale * sum);
    }
  }
}

template <class T, bool vector>
const char* launch(const LatentForward& p, cudaStream_t stream) {
  const bool want_kl = p.sums != nullptr || p.kl.data != nullptr;
  const auto kernel = !p.z.data ? forward<T, vector, false, true>
                      : want_kl ? forward<T, vector, true, true>
                                : forward<T, vector, true, false>;
  kernel<<<static_cast<unsigned>(p.cut.ctas()), cta_threads, 0, stream>>>(p);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class T>
const char* launch(const LatentForward& p, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return p.vector ? launch<T, true>(p, cuda_stream) : launch<T, false>(p, cuda_stream);
}

}  // namespace

const char* latent_forward(const LatentForward& p, void* stream) {
  switch (p.dtype) {
    case DType::float16: return launch<Half>(p, stream);
    case DType::bfloat16: return launch<BFloat16>(p, stream);
    case DType::float32: return launch<float>(p, stream);
    case DType::float64: break;
  }
  return "float64 is not compiled for CUDA";
}

}  // namespace betavae_fast::cuda
