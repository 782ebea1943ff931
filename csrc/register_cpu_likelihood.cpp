// The likelihood op of the C++ backend: tensors in, problems to the kernels, sums out.

#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "huge_pages.h"
#include "latent_tensors.h"
#include "views.h"

namespace betavae_fast {
namespace {

Pixels pixels_of(const Tensor& target, bool packed) {
  if (packed) return Pixels::bits;
  switch (target.scalar_type()) {
    case ScalarType::Half: return Pixels::float16;
    case ScalarType::BFloat16: return Pixels::bfloat16;
    case ScalarType::Float: return Pixels::float32;
    case ScalarType::Double: return Pixels::float64;
    case ScalarType::Byte: return Pixels::uint8;
    case ScalarType::Bool: return Pixels::boolean;
    default:
      STD_TORCH_CHECK(false, "target must be bool, uint8 or floating point, got ", toString(target.scalar_type()));
  }
}

void check_inputs(const Tensor& decoded, const Tensor& target, bool packed) {
  STD_TORCH_CHECK(decoded.is_cpu() && decoded.dim() > 0, "decoded must be a CPU tensor with a batch dimension");
  STD_TORCH_CHECK(target.is_cpu(), "target must be a CPU tensor");
  if (!packed) {
    STD_TORCH_CHECK(same_shape(decoded, target), "decoded and target must have the same shape");
    return;
  }
  const int64_t rows = decoded.size(0), pixels = rows == 0 ? 0 : decoded.numel() / rows;
  STD_TORCH_CHECK(target.scalar_type() == ScalarType::Byte && target.dim() == 2 && target.size(0) == rows &&
                      (rows == 0 || target.size(1) == (pixels + 7) / 8) && target.is_contiguous(),
                  "packed targets must be contiguous uint8 of shape (", rows, ", ", (pixels + 7) / 8, ")");
}

// One rounding, whatever the number of terms (Kahan 1965); what is not finite stays so.
double compensated_sum(const double* terms, int64_t count) {
  double sum = 0, lost = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double term = terms[i] - lost, next = sum + term;
    lost = std::isfinite(next) ? (next - sum) - term : 0;
    sum = next;
  }
  return sum;
}

struct Arguments {
  bool packed;
  Likelihood likelihood;
  double scale;
  KlReduction reduction;
};

// Computes whichever of nll and grad is not null; both are allocated by the caller.
void run(const Tensor& decoded, const Tensor& target, const Arguments& arguments, const Tensor* grad_nll, Tensor* nll,
         Tensor* grad) {
  LikelihoodProblem p;
  p.dtype = dtype_of(decoded);
  p.pixels = pixels_of(target, arguments.packed);
  p.likelihood = arguments.likelihood;
  p.scale = arguments.scale;
  const KlReduction reduction = arguments.reduction;

  // A bit is found by its pixel's number, which counts the dims as they are written.
  std::vector<int64_t> order = in_memory_order(decoded);
  if (arguments.packed) std::sort(order.begin(), order.end());
  std::array<std::vector<int64_t>, 5> strides;
  std::array<Operand, 5> operands;
  size_t count = 0;
  const auto add = [&](View& view, void* data, const int64_t* of_dims) {
    strides[count] = ordered(of_dims, order);
    operands[count] = {&view, data, strides[count].data()};
    ++count;
  };
  add(p.decoded, decoded.data_ptr(), decoded.strides().data());
  if (!arguments.packed) add(p.target, target.data_ptr(), target.strides().data());
  const bool elements = nll && reduction == KlReduction::none;
  if (elements) add(p.nll, nll->data_ptr(), nll->strides().data());
  if (grad) add(p.grad, grad->data_ptr(), grad->strides().data());
  if (grad_nll) add(p.grad_nll, grad_nll->data_ptr(), spread_strides(decoded, *grad_nll, reduction).data());
  const std::vector<int64_t> sizes = ordered(decoded.sizes().data(), order);
  if (!fit(Sizes(sizes.data(), sizes.size()), operands, count, p)) {
    const Tensor flat = torch::stable::contiguous(decoded);
    Tensor flat_nll = elements ? empty_kl(flat, reduction) : Tensor(),
           flat_grad = grad ? torch::stable::empty_like(flat) : Tensor();
    std::optional<Tensor> flat_grad_nll;
    if (grad_nll) flat_grad_nll = torch::stable::contiguous(*grad_nll);
    run(flat, torch::stable::contiguous(target), arguments, flat_grad_nll ? &*flat_grad_nll : nullptr,
        elements ? &flat_nll : nll, grad ? &flat_grad : nullptr);
    if (elements) torch::stable::copy_(*nll, flat_nll);
    if (grad) torch::stable::copy_(*grad, flat_grad);
    return;
  }
  if (arguments.packed) p.target = {target.data_ptr(), target.stride(0), 0, 1};
  if (reduction == KlReduction::batchmean) p.grad_scale = 1.0 / static_cast<double>(p.rows);

  const LikelihoodPartition cut(p.rows, p.cols());
  std::unique_ptr<double[]> partial;
  if (nll && !elements) {
    partial.reset(new double[static_cast<size_t>(p.rows * cut.panels)]);
    p.partial = partial.get();
  }
  const auto kernel = likelihood_kernels().run;
  torch::stable::parallel_for(0, cut.tiles, 32, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  if (!partial) return;

  const auto sum_up = [&](auto* out) {
    using Out = std::decay_t<decltype(*out)>;
    if (reduction == KlReduction::sample) {
      for (int64_t row = 0; row < p.rows; ++row)
        out[row] = static_cast<Out>(compensated_sum(partial.get() + row * cut.panels, cut.panels));
      return;
    }
    const double total = compensated_sum(partial.get(), p.rows * cut.panels);
    *out = static_cast<Out>(reduction == KlReduction::sum ? total : total / static_cast<double>(p.rows));
  };
  if (nll->scalar_type() == ScalarType::Double)
    sum_up(static_cast<double*>(nll->data_ptr()));
  else
    sum_up(static_cast<float*>(nll->data_ptr()));
}

void check_grad_nll(const Tensor& decoded, const Tensor& grad_nll) {
  STD_TORCH_CHECK(grad_nll.is_cpu() && grad_nll.scalar_type() == kl_dtype(decoded),
                  "grad_nll must be a CPU tensor of the NLL's dtype");
}

std::tuple<Tensor, Tensor> likelihood_forward(const Tensor& decoded, const Tensor& target, bool packed,
                                              int64_t likelihood, double scale, int64_t reduction, bool need_grad) {
  check_inputs(decoded, target, packed);
  const Arguments arguments = {packed, likelihood_of(likelihood), scale, nll_reduction(reduction)};
  const int64_t none = 0;
  Tensor nll = empty_kl(decoded, arguments.reduction);
  Tensor grad = need_grad ? with_huge_pages(torch::stable::empty_like(decoded))
                          : torch::stable::new_empty(decoded, Sizes(&none, 1));
  if (decoded.numel() == 0)
    fill_empty(nll, arguments.reduction, decoded.size(0));
  else
    run(decoded, target, arguments, nullptr, &nll, need_grad ? &grad : nullptr);
  return {nll, grad};
}

Tensor likelihood_backward(const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                           int64_t likelihood, double scale, int64_t reduction) {
  check_inputs(decoded, target, packed);
  check_grad_nll(decoded, grad_nll);
  const Arguments arguments = {packed, likelihood_of(likelihood), scale, nll_reduction(reduction)};
  Tensor grad = with_huge_pages(torch::stable::empty_like(decoded));
  if (decoded.numel() > 0) run(decoded, target, arguments, &grad_nll, nullptr, &grad);
  return grad;
}

template <class Real>
bool is_one(const Tensor& scalar) {
  return *static_cast<const Real*>(scalar.data_ptr()) == Real(1);
}

void likelihood_finish(Tensor grad, const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                       int64_t likelihood, double scale, int64_t reduction) {
  check_inputs(decoded, target, packed);
  check_grad_nll(decoded, grad_nll);
  STD_TORCH_CHECK(grad_nll.dim() == 0, "grad_nll must be a scalar, got ", grad_nll.dim(), " dimensions");
  STD_TORCH_CHECK(grad.is_cpu() && grad.scalar_type() == decoded.scalar_type() && same_shape(grad, decoded),
                  "grad must be a CPU tensor of decoded's shape and dtype");
  if (decoded.numel() == 0) return;
  if (grad_nll.scalar_type() == ScalarType::Double ? is_one<double>(grad_nll) : is_one<float>(grad_nll)) return;
  const Arguments arguments = {packed, likelihood_of(likelihood), scale, nll_reduction(reduction)};
  run(decoded, target, arguments, &grad_nll, nullptr, &grad);
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  m.impl("likelihood_forward_cpp", TORCH_BOX(&betavae_fast::likelihood_forward));
  m.impl("likelihood_backward_cpp", TORCH_BOX(&betavae_fast::likelihood_backward));
  m.impl("likelihood_finish_cpp", TORCH_BOX(&betavae_fast::likelihood_finish));
}
