// The likelihood op of the CUDA backend: tensors in, launches on torch's current stream. No CUDA header is needed here.

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/likelihood.h"
#include "include/likelihood.h"
#include "latent_tensors.h"
#include "register_cuda.h"
#include "views.h"

namespace betavae_fast {
namespace {

using cuda::Keeps;
using cuda::LikelihoodArguments;
using cuda::LikelihoodBackward;
using cuda::LikelihoodForward;
using cuda::Partition;
using cuda::Tiled;

struct Settings {
  bool packed;
  Likelihood likelihood;
  double scale;
  KlReduction reduction;
};

Settings settings_of(bool packed, int64_t likelihood, double scale, int64_t reduction) {
  return {packed, likelihood_of(likelihood), scale, nll_reduction(reduction)};
}

std::string shape(const Tensor& x) {
  std::string text = "(";
  for (int64_t d = 0; d < x.dim(); ++d) text += (d ? ", " : "") + std::to_string(x.size(d));
  return text + ")";
}

void check_device(const Tensor& decoded, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == decoded.get_device_index(), name,
                  " must be a tensor on decoded's CUDA device");
}

void check_inputs(const Tensor& decoded, const Tensor& target, bool packed) {
  STD_TORCH_CHECK(decoded.is_cuda() && decoded.dim() > 0, "decoded must be a CUDA tensor with a batch dimension");
  check_not_float64(decoded);
  dtype_of(decoded);
  check_device(decoded, target, "target");
  const ScalarType pixels = target.scalar_type();
  if (!packed) {
    STD_TORCH_CHECK(same_shape(decoded, target), "decoded and target must have the same shape, got ", shape(decoded),
                    " and ", shape(target));
    STD_TORCH_CHECK(pixels == decoded.scalar_type() || pixels == ScalarType::Float || pixels == ScalarType::Byte ||
                        pixels == ScalarType::Bool,
                    "target must be bool, uint8, float32 or of decoded's dtype, ", toString(decoded.scalar_type()),
                    ", got ", toString(pixels));
    return;
  }
  int64_t bits = 1;
  for (int64_t d = 1; d < decoded.dim(); ++d) bits *= decoded.size(d);
  STD_TORCH_CHECK(pixels == ScalarType::Byte && target.dim() == 2 && target.size(0) == decoded.size(0) &&
                      target.size(1) == (bits + 7) / 8 && target.is_contiguous(),
                  "packed target must be contiguous, uint8, of shape (", decoded.size(0), ", ", (bits + 7) / 8,
                  "), got ", toString(pixels), " ", shape(target));
}

void check_grad_nll(const Tensor& decoded, const Tensor& grad_nll) {
  check_device(decoded, grad_nll, "grad_nll");
  STD_TORCH_CHECK(grad_nll.scalar_type() == ScalarType::Float, "grad_nll must be float32, got ",
                  toString(grad_nll.scalar_type()));
}

Pixels pixels_of(const Tensor& target, bool packed) {
  if (packed) return Pixels::bits;
  switch (target.scalar_type()) {
    case ScalarType::Byte: return Pixels::uint8;
    case ScalarType::Bool: return Pixels::boolean;
    case ScalarType::Half: return Pixels::float16;
    case ScalarType::BFloat16: return Pixels::bfloat16;
    default: return Pixels::float32;
  }
}

// A bit for every pixel, counted from the first row's first, dims row-major as they are written.
std::vector<int64_t> bit_strides(const Tensor& decoded, const Tensor& target) {
  std::vector<int64_t> strides(static_cast<size_t>(decoded.dim()));
  int64_t bits = 1;
  for (size_t d = strides.size(); d-- > 1;) {
    strides[d] = bits;
    bits *= decoded.size(static_cast<int64_t>(d));
  }
  strides[0] = 8 * target.size(1);
  return strides;
}

// The operands of a launch, with dims in the order decoded has them in memory: the op is elementwise, and sums take
// them in any order.
class Operands {
 public:
  Operands(LikelihoodArguments& p, const Settings& settings, const Tensor& decoded, const Tensor& target,
           const Tensor* grad)
      : order_(in_memory_order(decoded)), sizes_(ordered(decoded.sizes().data(), order_)) {
    const Width<double> width = width_of(settings.likelihood, settings.scale);
    p.dtype = dtype_of(decoded);
    p.likelihood = settings.likelihood;
    p.inverse_scale = static_cast<float>(width.inverse);
    p.constant = static_cast<float>(width.constant);
    p.target.pixels = pixels_of(target, settings.packed);
    add(p.decoded, decoded);
    add(p.target, target, settings.packed ? bit_strides(decoded, target).data() : target.strides().data());
    if (grad) add(p.grad, *grad);
  }

  void add(View& view, const Tensor& tensor) { add(view, tensor, tensor.strides().data()); }
  void add(View& view, const Tensor& tensor, const int64_t* of_dims) {
    strides_[count_] = ordered(of_dims, order_);
    operands_[count_] = {&view, tensor.data_ptr(), strides_[count_].data()};
    ++count_;
  }

  bool fit_into(Problem& problem) const { return fit(Sizes(sizes_.data(), sizes_.size()), operands_, count_, problem); }

 private:
  std::vector<int64_t> order_, sizes_;
  std::array<std::vector<int64_t>, 4> strides_;
  std::array<Operand, 4> operands_;
  size_t count_ = 0;
};

void cut(LikelihoodArguments& p, const Tensor& decoded, const Tensor& target, Keeps keeps) {
  p.cut = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), keeps, cuda::tuning);
  check_grid(p.cut);
  const int64_t bytes = static_cast<int64_t>(decoded.element_size());
  p.vector = vectorize(p.problem, p.cut, bytes, p.decoded) && vectorize(p.problem, p.cut, bytes, p.grad);
  p.target_vector = p.target.pixels == Pixels::bits
                        ? vectorize_bits(p.problem, p.cut, p.target)
                        : vectorize(p.problem, p.cut, static_cast<int64_t>(target.element_size()), p.target);
}

// grad is null where it is not wanted; both are allocated by the caller.
void forward(const Settings& settings, const Tensor& decoded, const Tensor& target, Tensor& nll, Tensor* grad) {
  const KlReduction reduction = settings.reduction;
  if (decoded.numel() == 0) return fill_empty(nll, reduction, decoded.size(0));
  LikelihoodForward p;
  Operands operands(p, settings, decoded, target, grad);
  if (reduction == KlReduction::none) operands.add(p.nll, nll);
  if (!operands.fit_into(p.problem)) {
    const Tensor flat = torch::stable::contiguous(decoded);
    Tensor flat_nll = empty_kl(flat, reduction), flat_grad = torch::stable::empty_like(flat);
    forward(settings, flat, torch::stable::contiguous(target), flat_nll, grad ? &flat_grad : nullptr);
    torch::stable::copy_(nll, flat_nll);
    if (grad) torch::stable::copy_(*grad, flat_grad);
    return;
  }
  cut(p, decoded, target, cuda::keeps_of(reduction));
  p.vector = vectorize(p.problem, p.cut, sizeof(float), p.nll) && p.vector;
  p.reduction = reduction;
  if (reduction == KlReduction::batchmean) p.grad_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
  std::optional<SumsInto> sums;
  if (reduction != KlReduction::none) {
    sums.emplace(nll, p.cut, reduction, p.problem.rows);
    p.sums = sums->data();
    p.scale = sums->scale();
  }
  const Queue queue(decoded);
  check(cuda::likelihood_forward(p, queue.stream()), "likelihood_forward");
  if (sums) sums->finish(queue);
}

// unless_one: leaves grad as it is where grad_nll, one number, turns out to be 1.
void backward(const Settings& settings, const Tensor& grad_nll, const Tensor& decoded, const Tensor& target,
              Tensor& grad, bool unless_one) {
  const std::vector<int64_t> spread = spread_strides(decoded, grad_nll, settings.reduction);
  if (decoded.numel() == 0) return;
  LikelihoodBackward p;
  Operands operands(p, settings, decoded, target, &grad);
  operands.add(p.grad_nll, grad_nll, spread.data());
  if (!operands.fit_into(p.problem)) {
    const Tensor flat = torch::stable::contiguous(decoded);
    Tensor flat_grad = unless_one ? torch::stable::contiguous(grad) : torch::stable::empty_like(flat);
    backward(settings, torch::stable::contiguous(grad_nll), flat, torch::stable::contiguous(target), flat_grad,
             unless_one);
    torch::stable::copy_(grad, flat_grad);
    return;
  }
  const bool along_rows = p.grad_nll.outer != 0 || p.grad_nll.inner != 0;
  cut(p, decoded, target, !along_rows && p.grad_nll.row != 0 ? Keeps::rows : Keeps::nothing);
  p.grad_nll_vector = along_rows && vectorize(p.problem, p.cut, sizeof(float), p.grad_nll);
  // A group takes one gradient where that is the same along its row, and it has but one row.
  const bool one_a_group = !along_rows && (p.grad_nll.row == 0 || p.cut.groups_in_rows());
  p.vector = p.vector && (p.grad_nll_vector || one_a_group);
  if (settings.reduction == KlReduction::batchmean)
    p.nll_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
  p.unless_one = unless_one;
  const Queue queue(decoded);
  check(cuda::likelihood_backward(p, queue.stream()), "likelihood_backward");
}

std::tuple<Tensor, Tensor> likelihood_forward(const Tensor& decoded, const Tensor& target, bool packed,
                                              int64_t likelihood, double scale, int64_t reduction, bool need_grad) {
  check_inputs(decoded, target, packed);
  const Settings settings = settings_of(packed, likelihood, scale, reduction);
  const int64_t none = 0;
  Tensor nll = empty_kl(decoded, settings.reduction);
  Tensor grad = need_grad ? torch::stable::empty_like(decoded) : torch::stable::new_empty(decoded, Sizes(&none, 1));
  forward(settings, decoded, target, nll, need_grad ? &grad : nullptr);
  return {nll, grad};
}

Tensor likelihood_backward(const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                           int64_t likelihood, double scale, int64_t reduction) {
  check_inputs(decoded, target, packed);
  check_grad_nll(decoded, grad_nll);
  Tensor grad = torch::stable::empty_like(decoded);
  backward(settings_of(packed, likelihood, scale, reduction), grad_nll, decoded, target, grad, false);
  return grad;
}

void likelihood_finish(Tensor grad, const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                       int64_t likelihood, double scale, int64_t reduction) {
  check_inputs(decoded, target, packed);
  check_grad_nll(decoded, grad_nll);
  check_device(decoded, grad, "grad");
  STD_TORCH_CHECK(grad_nll.dim() == 0, "grad_nll must be one number, got shape ", shape(grad_nll));
  STD_TORCH_CHECK(grad.scalar_type() == decoded.scalar_type() && same_shape(grad, decoded),
                  "grad must have decoded's shape and dtype, ", shape(decoded), " ", toString(decoded.scalar_type()),
                  ", got ", shape(grad), " ", toString(grad.scalar_type()));
  backward(settings_of(packed, likelihood, scale, reduction), grad_nll, decoded, target, grad, true);
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) {
  m.impl("likelihood_forward_cuda", TORCH_BOX(&betavae_fast::likelihood_forward));
  m.impl("likelihood_backward_cuda", TORCH_BOX(&betavae_fast::likelihood_backward));
  m.impl("likelihood_finish_cuda", TORCH_BOX(&betavae_fast::likelihood_finish));
}
