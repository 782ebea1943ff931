#include "../include/latent.h"
#include "dispatch.cuh"
#include "latent.h"
#include "noise.cuh"
#include "operand.cuh"

namespace betavae_fast::cuda {
namespace {

// kl_grad: the elements that share one value of the KL's gradient. `dim`, which stands for the scalar reductions too,
// is the same in every row, so that it is read once.
//
// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. The noise is
// drawn again, with the same bits as in forward. Operands that the wanted gradients do not need are neither read nor
// computed.
template <class T, bool vector, bool has_grad_z, Reduction kl_grad>
__global__ void __launch_bounds__(cta_threads) backward(const __grid_constant__ LatentBackward p) {
  constexpr int group = group_size<T>;
  constexpr bool has_grad_kl = kl_grad != Reduction::absent;
  const ThreadElements thread = p.partition.thread_elements(blockIdx.x, threadIdx.x);
  const Column column(p.problem, thread.col);
  ThreadOperand<T, vector> mu_in(p.problem, p.mu, thread, column);
  ThreadOperand<T, vector> logvar_in(p.problem, p.logvar, thread, column);
  ThreadOperand<T, vector> given_in(p.problem, p.noise, thread, column);
  ThreadOperand<T, vector> grad_z_in(p.problem, p.grad_z, thread, column);
  ThreadOperand<float, vector> grad_kl_in(p.problem, p.grad_kl, thread, column);
  ThreadOperand<T, vector> grad_mu_out(p.problem, p.grad_mu, thread, column);
  ThreadOperand<T, vector> grad_logvar_out(p.problem, p.grad_logvar, thread, column);
  Noise<vector> noise(has_grad_z ? p.rng : nullptr, p.first_element + thread.first, p.partition.tile_stride);
  float grad_kl[group] = {};
  if constexpr (kl_grad == Reduction::dim) {
    Index index(p.problem, thread.col);
#pragma unroll
    for (int j = 0; j < group; ++j) {
      if (j < thread.room) grad_kl[j] = p.kl_scale * static_cast<const float*>(p.grad_kl.data)[index.offset(p.grad_kl)];
      index.next(p.problem);
    }
  }
#pragma unroll 1
  for (int tile = 0; tile < thread.tiles; ++tile) {
    const int count = thread.count(tile);
    if (count > 0) {
      float mu[group] = {}, logvar[group] = {}, eps[group] = {}, grad_z[group] = {}, grad_mu[group], grad_logvar[group];
      const auto load = [&](int elements) {
        if constexpr (has_grad_z) grad_z_in.load(elements, grad_z);
        if (has_grad_kl && p.grad_mu.data) mu_in.load(elements, mu);
        if constexpr (kl_grad == Reduction::none) grad_kl_in.load(elements, grad_kl);
        if (p.grad_logvar.data) logvar_in.load(elements, logvar);
      };
      // All loads are in one branch, so that they are issued together, as in load_both().
      if (vector && count == group) {
        load(group);
      } else {
        load(count);
      }
      if constexpr (kl_grad == Reduction::sample && vector) {
        const float of_row =
            static_cast<const float*>(p.grad_kl.data)[(thread.row + tile * p.partition.tile_rows) * p.grad_kl.row];
#pragma unroll
        for (int j = 0; j < group; ++j) grad_kl[j] = of_row;
      }
      if (has_grad_z && p.grad_logvar.data) {
        if (p.noise.data)
          given_in.load(count, eps);
        else
          noise.draw(eps);
      }
      float v[group];
#pragma unroll
      for (int j = 0; j < group; ++j) v[j] = logvar[j];
      if (p.clamps) {
#pragma unroll
        for (int j = 0; j < group; ++j) v[j] = clamp_(v[j], p.settings.logvar_min, p.settings.logvar_max);
      }
#pragma unroll
      for (int j = 0; j < group; ++j) {
        const Spread<float> s = relevant<has_grad_z, has_grad_kl>(spread(v[j]));
        const LatentGrad<float> g = latent_grad(mu[j], s, eps[j], grad_z[j], grad_kl[j]);
        grad_mu[j] = g.mu;
        grad_logvar[j] = g.logvar;
      }
      if (p.clamps) {
#pragma unroll
        for (int j = 0; j < group; ++j)
          if (logvar[j] < p.settings.logvar_min || logvar[j] > p.settings.logvar_max) grad_logvar[j] = 0.0f;
      }
      const auto store = [&](int elements) {
        if (p.grad_mu.data) grad_mu_out.store(elements, grad_mu);
        if (p.grad_logvar.data) grad_logvar_out.store(elements, grad_logvar);
      };
      if (vector && count == group) {
        store(group);
      } else {
        store(count);
      }
    }
    mu_in.next_tile(p.partition.tile_stride);
    logvar_in.next_tile(p.partition.tile_stride);
    if (has_grad_z) given_in.next_tile(p.partition.tile_stride);
    if (has_grad_z) grad_z_in.next_tile(p.partition.tile_stride);
    if (kl_grad == Reduction::none) grad_kl_in.next_tile(p.partition.tile_stride);
    grad_mu_out.next_tile(p.partition.tile_stride);
    grad_logvar_out.next_tile(p.partition.tile_stride);
    noise.next_tile();
  }
}

template <class T, bool vector, bool has_grad_z>
auto choose(const LatentBackward& p) {
  if constexpr (has_grad_z) {
    if (!p.grad_kl.data) return backward<T, vector, true, Reduction::absent>;
  }
  if (p.grad_kl.row == 0) return backward<T, vector, has_grad_z, Reduction::dim>;
  if constexpr (vector) {
    if (!p.grad_kl_vector) return backward<T, vector, has_grad_z, Reduction::sample>;
  }
  return backward<T, vector, has_grad_z, Reduction::none>;
}

template <class T, bool vector>
const char* launch(const LatentBackward& p, cudaStream_t stream) {
  const auto kernel = p.grad_z.data ? choose<T, vector, true>(p) : choose<T, vector, false>(p);
  kernel<<<static_cast<unsigned>(p.partition.ctas()), cta_threads, 0, stream>>>(p);
  return last_error();
}

}  // namespace

const char* latent_backward(const LatentBackward& p, void* stream) {
  return with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    return p.vector ? launch<T, true>(p, cuda_stream) : launch<T, false>(p, cuda_stream);
  });
}

}  // namespace betavae_fast::cuda
