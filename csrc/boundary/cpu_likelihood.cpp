// The likelihood op of the cpp backend: runs the kernels and adds up their partial sums.

#include <cmath>
#include <memory>

#include "../cpu/dispatch.h"
#include "cpu.h"
#include "likelihood.h"

namespace betavae_fast {
namespace {

// A compensated sum, whose error does not grow with the number of terms (Kahan 1965). A sum that is infinite or NaN
// stays so.
double compensated_sum(const double* terms, int64_t count) {
  double sum = 0, lost = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double term = terms[i] - lost, next = sum + term;
    lost = std::isfinite(next) ? (next - sum) - term : 0;
    sum = next;
  }
  return sum;
}

template <class Real>
void sum_partials(const LikelihoodProblem& p, Reduction reduction, Real* out) {
  const int64_t panels = LikelihoodPartition(p.rows, p.cols()).panels;
  if (reduction == Reduction::sample) {
    for (int64_t row = 0; row < p.rows; ++row)
      out[row] = static_cast<Real>(compensated_sum(p.partials + row * panels, panels));
    return;
  }
  const double total = compensated_sum(p.partials, p.rows * panels);
  *out = static_cast<Real>(reduction == Reduction::sum ? total : total / static_cast<double>(p.rows));
}

template <class Real>
bool equals_one(const Tensor& scalar) {
  return *static_cast<const Real*>(scalar.data_ptr()) == Real(1);
}

struct LikelihoodCpu : Cpu {
  static constexpr bool views_bits = false;

  static bool is_one(const Tensor& scalar) {
    return scalar.scalar_type() == ScalarType::Double ? equals_one<double>(scalar) : equals_one<float>(scalar);
  }

  static void forward(const LikelihoodCall& call, const LikelihoodViews& views, Tensor* nll) {
    LikelihoodProblem p = described(call, views);
    std::unique_ptr<double[]> partials;
    if (nll) {
      partials.reset(new double[static_cast<size_t>(p.rows * LikelihoodPartition(p.rows, p.cols()).panels)]);
      p.partials = partials.get();
    }
    run(p);
    if (!nll) return;
    if (nll->scalar_type() == ScalarType::Double)
      sum_partials(p, call.reduction, static_cast<double*>(nll->data_ptr()));
    else
      sum_partials(p, call.reduction, static_cast<float*>(nll->data_ptr()));
  }

  static void backward(const LikelihoodCall& call, const LikelihoodViews& views, bool) { run(described(call, views)); }

 private:
  static LikelihoodProblem described(const LikelihoodCall& call, const LikelihoodViews& views) {
    LikelihoodProblem p;
    static_cast<Problem&>(p) = views.problem;
    p.dtype = dtype_of(call.decoded);
    p.pixels = pixels_of(call);
    p.likelihood = call.likelihood;
    p.scale = call.scale;
    p.decoded = views.decoded;
    p.target = views.target;
    p.nll = views.nll;
    p.grad = views.grad;
    p.grad_nll = views.grad_nll;
    if (call.reduction == Reduction::batchmean) p.grad_scale = 1.0 / static_cast<double>(p.rows);
    return p;
  }

  static void run(const LikelihoodProblem& p) {
    const auto kernel = likelihood_kernels().run;
    torch::stable::parallel_for(0, LikelihoodPartition(p.rows, p.cols()).tiles, 32,
                                [&](int64_t first, int64_t last) { kernel(p, first, last); });
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  betavae_fast::LikelihoodOp<betavae_fast::LikelihoodCpu>::implement(m);
}
