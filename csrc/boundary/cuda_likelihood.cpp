// The likelihood op of the CUDA backend: launches on torch's current stream. No CUDA header is needed here.

#include "../cuda/likelihood.h"
#include "../include/likelihood.h"
#include "cuda.h"
#include "likelihood.h"

namespace betavae_fast {
namespace {

using cuda::LikelihoodBackward;
using cuda::LikelihoodForward;
using cuda::Partition;

template <class Arguments>
Arguments described(const LikelihoodCall& call, const LikelihoodViews& views, Reduction reduction) {
  Arguments p;
  const Width<double> width = width_of(call.likelihood, call.scale);
  p.dtype = dtype_of(call.decoded);
  p.likelihood = call.likelihood;
  p.inverse_scale = static_cast<float>(width.inverse);
  p.constant = static_cast<float>(width.constant);
  p.problem = views.problem;
  static_cast<View&>(p.decoded) = views.decoded;
  static_cast<View&>(p.target) = views.target;
  static_cast<View&>(p.grad) = views.grad;
  p.target.pixels = pixels_of(call);
  p.partition = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), reduction, cuda::tuning);
  check_grid(p.partition);
  const int64_t bytes = static_cast<int64_t>(call.decoded.element_size());
  p.vector = vectorize(p.problem, p.partition, bytes, p.decoded) && vectorize(p.problem, p.partition, bytes, p.grad);
  p.target_vector = p.target.pixels == Pixels::bits
                        ? vectorize_bits(p.problem, p.partition, p.target)
                        : vectorize(p.problem, p.partition, static_cast<int64_t>(call.target.element_size()), p.target);
  return p;
}

struct LikelihoodCuda : Cuda {
  static constexpr bool views_bits = true;

  static bool is_one(const Tensor&) { return false; }

  static void forward(const LikelihoodCall& call, const LikelihoodViews& views, Tensor* nll) {
    auto p = described<LikelihoodForward>(call, views, call.reduction);
    static_cast<View&>(p.nll) = views.nll;
    p.vector = vectorize(p.problem, p.partition, sizeof(float), p.nll) && p.vector;
    p.reduction = call.reduction;
    if (call.reduction == Reduction::batchmean)
      p.grad_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
    std::optional<PartialSums> partials;
    if (nll) {
      partials.emplace(*nll, p.partition, call.reduction, p.problem.rows);
      p.partials = partials->data();
      p.scale = partials->scale();
    }
    const Queue queue(call.decoded);
    check(cuda::likelihood_forward(p, queue.stream()), "likelihood_forward");
    if (partials) partials->finish(queue);
  }

  static void backward(const LikelihoodCall& call, const LikelihoodViews& views, bool unless_one) {
    const View& grad_nll = views.grad_nll;
    const bool along_rows = grad_nll.outer != 0 || grad_nll.inner != 0;
    auto p = described<LikelihoodBackward>(call, views,
                                           !along_rows && grad_nll.row != 0 ? Reduction::sample : Reduction::none);
    static_cast<View&>(p.grad_nll) = grad_nll;
    p.grad_nll_vector = along_rows && vectorize(p.problem, p.partition, sizeof(float), p.grad_nll);
    // A group takes a single value if grad_nll is one number, or if it has one value per row and no group spans two
    // rows.
    const bool one_a_group = !along_rows && (grad_nll.row == 0 || p.partition.groups_in_rows());
    p.vector = p.vector && (p.grad_nll_vector || one_a_group);
    if (call.reduction == Reduction::batchmean)
      p.nll_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
    p.unless_one = unless_one;
    const Queue queue(call.decoded);
    check(cuda::likelihood_backward(p, queue.stream()), "likelihood_backward");
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) {
  betavae_fast::LikelihoodOp<betavae_fast::LikelihoodCuda>::implement(m);
}
