#include "likelihood.cuh"

namespace betavae_fast::cuda {
namespace {

// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. A gradient of
// the NLL that varies within rows is read like decoded. Otherwise each group takes the gradient of its row, which is
// the same for all rows if the NLL is a scalar.
template <class V>
__global__ void __launch_bounds__(cta_threads) backward(const __grid_constant__ LikelihoodBackward p) {
  constexpr int group = V::group;
  const float* of_rows = static_cast<const float*>(p.grad_nll.data);
  if (p.unless_one && *of_rows == 1.0f) return;
  const ThreadElements thread = p.partition.thread_elements(blockIdx.x, threadIdx.x);
  const Column column(p.problem, thread.col);
  ThreadOperand<typename V::Element, V::vector> decoded_in(p.problem, p.decoded, thread, column);
  typename V::TargetOperand target_in(p.problem, p.target, thread, column);
  ThreadOperand<float, V::vector> grad_nll_in(p.problem, p.grad_nll, thread, column);
  ThreadOperand<typename V::Element, V::vector> grad_out(p.problem, p.grad, thread, column);
#pragma unroll 1
  for (int tile = 0; tile < thread.tiles; ++tile) {
    const int count = thread.count(tile);
    if (count > 0) {
      float x[group], t[group], nll[group], grad[group], factor[group];
      load_both(decoded_in, target_in, count, x, t);
      if (!V::vector || p.grad_nll_vector) {
        grad_nll_in.load(count, factor);
      } else {
        const float of_row = of_rows[(thread.row + tile * p.partition.tile_rows) * p.grad_nll.row];
#pragma unroll
        for (int j = 0; j < group; ++j) factor[j] = of_row;
      }
      group_nll(p, x, t, nll, grad);
#pragma unroll
      for (int j = 0; j < group; ++j) grad[j] *= p.nll_scale * factor[j];
      grad_out.store(count, grad);
    }
    decoded_in.next_tile(p.partition.tile_stride);
    target_in.next_tile(p.partition.tile_stride);
    grad_nll_in.next_tile(p.partition.tile_stride);
    grad_out.next_tile(p.partition.tile_stride);
  }
}

}  // namespace

const char* likelihood_backward(const LikelihoodBackward& p, void* stream) {
  return with_variant(p, [&](auto variant) -> const char* {
    const auto kernel = backward<decltype(variant)>;
    kernel<<<static_cast<unsigned>(p.partition.ctas()), cta_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

}  // namespace betavae_fast::cuda
