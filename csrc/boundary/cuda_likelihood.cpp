// The likelihood op of the CUDA backend: launches on torch's current stream. No CUDA header is needed here.

#include "../cuda/likelihood.h"
#include "../include/likelihood.h"
#include "cuda.h"
#include "likelihood.h"

namespace betavae_fast {
namespace {

using cuda::Keeps;
using cuda::LikelihoodBackward;
using cuda::LikelihoodForward;
using cuda::Partition;

template <class Arguments>
Arguments described(const LikelihoodCall& call, const LikelihoodViews& views, Keeps keeps) {
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
  p.cut = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), keeps, cuda::tuning);
  check_grid(p.cut);
  const int64_t bytes = static_cast<int64_t>(call.decoded.element_size());
  p.vector = vectorize(p.problem, p.cut, bytes, p.decoded) && vectorize(p.problem, p.cut, bytes, p.grad);
  p.target_vector = p.target.pixels == Pixels::bits
                        ? vectorize_bits(p.problem, p.cut, p.target)
                        : vectorize(p.problem, p.cut, static_cast<int64_t>(call.target.element_size()), p.target);
  return p;
}

struct LikelihoodCuda : Cuda {
  static constexpr bool views_bits = true;

  static bool is_one(const Tensor&) { return false; }

  static void forward(const LikelihoodCall& call, const LikelihoodViews& views, Tensor* nll) {
    auto p = described<LikelihoodForward>(call, views, cuda::keeps_of(call.reduction));
    static_cast<View&>(p.nll) = views.nll;
    p.vector = vectorize(p.problem, p.cut, sizeof(float), p.nll) && p.vector;
    p.reduction = call.reduction;
    if (call.reduction == Reduction::batchmean)
      p.grad_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
    std::optional<SumsInto> sums;
    if (nll) {
      sums.emplace(*nll, p.cut, call.reduction, p.problem.rows);
      p.sums = sums->data();
      p.scale = sums->scale();
    }
    const Queue queue(call.decoded);
    check(cuda::likelihood_forward(p, queue.stream()), "likelihood_forward");
    if (sums) sums->finish(queue);
  }

  static void backward(const LikelihoodCall& call, const LikelihoodViews& views, bool unless_one) {
    const View& grad_nll = views.grad_nll;
    const bool along_rows = grad_nll.outer != 0 || grad_nll.inner != 0;
    auto p =
        described<LikelihoodBackward>(call, views, !along_rows && grad_nll.row != 0 ? Keeps::rows : Keeps::nothing);
    static_cast<View&>(p.grad_nll) = grad_nll;
    p.grad_nll_vector = along_rows && vectorize(p.problem, p.cut, sizeof(float), p.grad_nll);
    // A group takes a single value if grad_nll is one number, or if it has one value per row and no group spans two
    // rows.
    const bool one_a_group = !along_rows && (grad_nll.row == 0 || p.cut.groups_in_rows());
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
  using Op = betavae_fast::LikelihoodOp<betavae_fast::LikelihoodCuda>;
  m.impl("likelihood_forward_cuda", TORCH_BOX(&Op::forward));
  m.impl("likelihood_backward_cuda", TORCH_BOX(&Op::backward));
  m.impl("likelihood_finish_cuda", TORCH_BOX(&Op::finish));
}
