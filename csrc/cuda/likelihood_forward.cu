#include "likelihood.cuh"
#include "reduce.cuh"

namespace betavae_fast::cuda {
namespace {

// want: `none` writes each element's NLL. `sample` sums it along the rows, by the CTA in every tile. `sum`, which
// stands for both scalar reductions, sums it completely, in registers and at the end by the CTA.
//
// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. decoded and
// target are read once, a wanted gradient is written once, and the sums go to the CTA's own partial sums.
template <class V, Reduction want>
__global__ void __launch_bounds__(cta_threads) forward(const __grid_constant__ LikelihoodForward p) {
  constexpr int group = V::group;
  __shared__ float shared[want == Reduction::sample ? 2 * cta_threads * group : cta_threads / 32];
  const ThreadElements thread = p.partition.thread_elements(blockIdx.x, threadIdx.x);
  const Column column(p.problem, thread.col);
  ThreadOperand<typename V::Element, V::vector> decoded_in(p.problem, p.decoded, thread, column);
  typename V::TargetOperand target_in(p.problem, p.target, thread, column);
  ThreadOperand<typename V::Element, V::vector> grad_out(p.problem, p.grad, thread, column);
  ThreadOperand<float, V::vector> nll_out(p.problem, p.nll, thread, column);
  float total = 0.0f;
  const RowSums<group> row_sums(p.partition);
#pragma unroll 1
  for (int tile = 0; tile < thread.tiles; ++tile) {
    const int count = thread.count(tile);
    float nll[group] = {};
    if (count > 0) {
      float x[group], t[group], grad[group];
      load_both(decoded_in, target_in, count, x, t);
      group_nll(p, x, t, nll, grad);
      if (p.grad.data) {
#pragma unroll
        for (int j = 0; j < group; ++j) grad[j] *= p.grad_scale;
        grad_out.store(count, grad);
      }
      if constexpr (want == Reduction::none) {
        nll_out.store(count, nll);
      } else if (count < group) {
#pragma unroll
        for (int j = 0; j < group; ++j)
          if (j >= count) nll[j] = 0.0f;
      }
    }
    decoded_in.next_tile(p.partition.tile_stride);
    target_in.next_tile(p.partition.tile_stride);
    grad_out.next_tile(p.partition.tile_stride);
    if (want == Reduction::none) nll_out.next_tile(p.partition.tile_stride);
    if constexpr (want == Reduction::sum) total += sum_group(nll);
    if constexpr (want == Reduction::sample) {
      const int64_t row = (thread.item * p.partition.item_tiles + tile) * p.partition.tile_rows;
      row_sums.of_tile(nll, shared + tile % 2 * cta_threads * group, [&](int local, float sum) {
        if (row + local < p.partition.rows) p.partials[(row + local) * p.partition.panels + thread.panel] = sum;
      });
    }
  }
  if constexpr (want == Reduction::sum) {
    const float sum = sum_cta(total, shared);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = static_cast<float>(p.scale * sum);
  }
}

}  // namespace

const char* likelihood_forward(const LikelihoodForward& p, void* stream) {
  return with_variant(p, [&](auto variant) -> const char* {
    using V = decltype(variant);
    auto kernel = forward<V, Reduction::sum>;
    if (p.reduction == Reduction::none) kernel = forward<V, Reduction::none>;
    if (p.reduction == Reduction::sample) kernel = forward<V, Reduction::sample>;
    kernel<<<static_cast<unsigned>(p.partition.ctas()), cta_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

}  // namespace betavae_fast::cuda
