#include "likelihood.cuh"
#include "reduce.cuh"

namespace betavae_fast::cuda {
namespace {

// The use of the NLL: each element's NLL is written; it is summed along the rows, by the CTA in every tile (reduction
// "sample"); or it is summed completely, in registers and at the end by the CTA.
enum class Sum { none, rows, all };

// A CTA owns one item of the partition, and a thread owns the same columns in each of the item's tiles. decoded and
// target are read once, a wanted gradient is written once, and the sums go to the CTA's own partial sums.
template <class V, Sum want>
__global__ void __launch_bounds__(cta_threads) forward(const __grid_constant__ LikelihoodForward p) {
  constexpr int group = V::group;
  __shared__ float shared[want == Sum::rows ? 2 * cta_threads * group : cta_threads / 32];
  const Place place = p.cut.place(blockIdx.x, threadIdx.x);
  const Column column(p.problem, place.col);
  Operand<typename V::Element, V::vector> decoded_in(p.problem, p.decoded, place, column);
  typename V::TargetOperand target_in(p.problem, p.target, place, column);
  Operand<typename V::Element, V::vector> grad_out(p.problem, p.grad, place, column);
  Operand<float, V::vector> nll_out(p.problem, p.nll, place, column);
  float total = 0.0f;
  const RowSums<group> row_sums(p.cut);
#pragma unroll 1
  for (int tile = 0; tile < place.tiles; ++tile) {
    const int count = place.count(tile);
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
      if constexpr (want == Sum::none) {
        nll_out.store(count, nll);
      } else if (count < group) {
#pragma unroll
        for (int j = 0; j < group; ++j)
          if (j >= count) nll[j] = 0.0f;
      }
    }
    decoded_in.next_tile(p.cut.tile_stride);
    target_in.next_tile(p.cut.tile_stride);
    grad_out.next_tile(p.cut.tile_stride);
    if (want == Sum::none) nll_out.next_tile(p.cut.tile_stride);
    if constexpr (want == Sum::all) total += sum_group(nll);
    if constexpr (want == Sum::rows) {
      const int64_t row = (place.item * p.cut.item_tiles + tile) * p.cut.tile_rows;
      row_sums.of_tile(nll, shared + tile % 2 * cta_threads * group, [&](int local, float sum) {
        if (row + local < p.cut.rows) p.sums[(row + local) * p.cut.panels + place.panel] = sum;
      });
    }
  }
  if constexpr (want == Sum::all) {
    const float sum = sum_cta(total, shared);
    if (threadIdx.x == 0) p.sums[blockIdx.x] = static_cast<float>(p.scale * sum);
  }
}

}  // namespace

const char* likelihood_forward(const LikelihoodForward& p, void* stream) {
  return with_variant(p, [&](auto variant) -> const char* {
    using V = decltype(variant);
    const auto kernel = p.nll.data                         ? forward<V, Sum::none>
                        : p.reduction == Reduction::sample ? forward<V, Sum::rows>
                                                           : forward<V, Sum::all>;
    kernel<<<static_cast<unsigned>(p.cut.ctas()), cta_threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
    return last_error();
  });
}

}  // namespace betavae_fast::cuda
