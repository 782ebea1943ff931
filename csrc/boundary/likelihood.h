// The likelihood op's operators on any device: they check the arguments, allocate the results and describe the operands
// as views.
//
// A device provides, in addition to the members of Cpu and Cuda,
//   static constexpr bool views_bits                           whether a packed target is a view like other operands
//   static bool is_one(const Tensor& scalar)                   false if only the device knows the value
//   static void forward(const LikelihoodCall&, const LikelihoodViews&, Tensor* nll)       nll: the reduced NLL, or null
//   static void backward(const LikelihoodCall&, const LikelihoodViews&, bool unless_one).
#pragma once

#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace betavae_fast {

struct LikelihoodCall {
  Tensor decoded, target;
  bool packed;  // the target's pixels are packed bits
  Likelihood likelihood;
  double scale;
  Reduction reduction;

  LikelihoodCall contiguous() const {
    LikelihoodCall call = *this;
    call.decoded = torch::stable::contiguous(decoded);
    call.target = torch::stable::contiguous(target);
    return call;
  }
};

// A view's data is null if the operand is not given or not wanted.
struct LikelihoodViews {
  Problem problem;
  View decoded, target, grad, grad_nll;
  View nll;  // used only with Reduction::none
};

inline Pixels pixels_of(const LikelihoodCall& call) {
  if (call.packed) return Pixels::bits;
  switch (call.target.scalar_type()) {
    case ScalarType::Byte: return Pixels::uint8;
    case ScalarType::Bool: return Pixels::boolean;
    case ScalarType::Half: return Pixels::float16;
    case ScalarType::BFloat16: return Pixels::bfloat16;
    case ScalarType::Float: return Pixels::float32;
    default: return Pixels::float64;
  }
}

template <class Device>
class LikelihoodOp {
 public:
  // Registers the operators as those of the device's backend.
  template <class Library>
  static void implement(Library& library) {
    const std::string backend = Device::backend;
    library.impl(("likelihood_forward_" + backend).c_str(), TORCH_BOX(&LikelihoodOp::forward));
    library.impl(("likelihood_backward_" + backend).c_str(), TORCH_BOX(&LikelihoodOp::backward));
    library.impl(("likelihood_finish_" + backend).c_str(), TORCH_BOX(&LikelihoodOp::finish));
  }

  static std::tuple<Tensor, Tensor> forward(const Tensor& decoded, const Tensor& target, bool packed,
                                            int64_t likelihood, double scale, int64_t reduction, bool need_grad) {
    const LikelihoodCall call = checked(decoded, target, packed, likelihood, scale, reduction);
    Tensor nll = empty_reduced(decoded, call.reduction);
    Tensor grad = need_grad ? Device::result_like(decoded) : no_elements(decoded);
    run_forward(call, &nll, need_grad ? &grad : nullptr);
    return {nll, grad};
  }

  static Tensor backward(const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                         int64_t likelihood, double scale, int64_t reduction) {
    const LikelihoodCall call = checked(decoded, target, packed, likelihood, scale, reduction);
    check_grad_nll(call, grad_nll);
    Tensor grad = Device::result_like(decoded);
    run_backward(call, grad_nll, &grad, false);
    return grad;
  }

  static void finish(Tensor grad, const Tensor& grad_nll, const Tensor& decoded, const Tensor& target, bool packed,
                     int64_t likelihood, double scale, int64_t reduction) {
    const LikelihoodCall call = checked(decoded, target, packed, likelihood, scale, reduction);
    check_grad_nll(call, grad_nll);
    STD_TORCH_CHECK(grad_nll.dim() == 0, "grad_nll must be one number, got shape ", shape(grad_nll));
    STD_TORCH_CHECK(
        Device::has_beside(decoded, grad) && grad.scalar_type() == decoded.scalar_type() && same_shape(grad, decoded),
        "grad must be a ", Device::name, " tensor of decoded's shape and dtype, ", shape(decoded), " ",
        toString(decoded.scalar_type()), ", on its device, got ", shape(grad), " ", toString(grad.scalar_type()));
    if (decoded.numel() > 0 && !Device::is_one(grad_nll)) run_backward(call, grad_nll, &grad, true);
  }

 private:
  static LikelihoodCall checked(const Tensor& decoded, const Tensor& target, bool packed, int64_t likelihood,
                                double scale, int64_t reduction) {
    STD_TORCH_CHECK(Device::has(decoded) && decoded.dim() > 0, "decoded must be a ", Device::name,
                    " tensor with a batch dimension");
    Device::check_dtype(decoded);
    dtype_of(decoded);
    STD_TORCH_CHECK(Device::has_beside(decoded, target), "target must be a ", Device::name,
                    " tensor on decoded's device");
    check_target(decoded, target, packed);
    STD_TORCH_CHECK(likelihood >= 0 && likelihood <= 2, "likelihood must be 0, 1 or 2, got ", likelihood);
    STD_TORCH_CHECK(reduction >= 0 && reduction <= 4 && reduction != 1, "reduction must be 0, 2, 3 or 4, got ",
                    reduction);
    return {decoded, target, packed, static_cast<Likelihood>(likelihood), scale, static_cast<Reduction>(reduction)};
  }

  static void check_target(const Tensor& decoded, const Tensor& target, bool packed) {
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

  static void check_grad_nll(const LikelihoodCall& call, const Tensor& grad_nll) {
    STD_TORCH_CHECK(Device::has_beside(call.decoded, grad_nll) && grad_nll.scalar_type() == sum_dtype(call.decoded),
                    "grad_nll must be a ", Device::name, " tensor of the NLL's dtype, ",
                    toString(sum_dtype(call.decoded)), ", on decoded's device, got ", toString(grad_nll.scalar_type()));
  }

  // The operands, with the dims in decoded's memory order: the op is elementwise, and its sums may take any order. If
  // bits are found by their pixel's number, which counts the dims in their written order, the dims keep that order.
  static Operands<4> operands_of(const LikelihoodCall& call, LikelihoodViews& views) {
    const bool numbered = call.packed && !Device::views_bits;
    Operands<4> operands(call.decoded, numbered ? std::vector<int64_t>() : in_memory_order(call.decoded));
    operands.add(views.decoded, call.decoded);
    if (!call.packed)
      operands.add(views.target, call.target);
    else if (Device::views_bits)
      operands.add(views.target, call.target, bit_strides(call).data());
    return operands;
  }

  // The strides of a packed target in bits: row-major over the dims in their written order, with whole bytes per row.
  static std::vector<int64_t> bit_strides(const LikelihoodCall& call) {
    std::vector<int64_t> strides(static_cast<size_t>(call.decoded.dim()));
    int64_t bits = 1;
    for (size_t d = strides.size(); d-- > 1;) {
      strides[d] = bits;
      bits *= call.decoded.size(static_cast<int64_t>(d));
    }
    strides[0] = 8 * call.target.size(1);
    return strides;
  }

  static bool fit(const LikelihoodCall& call, const Operands<4>& operands, LikelihoodViews& views) {
    if (!operands.fit(views.problem)) return false;
    if (call.packed && !Device::views_bits) views.target = {call.target.data_ptr(), call.target.stride(0), 0, 1};
    return true;
  }

  static void run_forward(const LikelihoodCall& call, Tensor* nll, Tensor* grad) {
    if (call.decoded.numel() == 0) return fill_empty(*nll, call.reduction, call.decoded.size(0));
    Tensor* each = call.reduction == Reduction::none ? nll : nullptr;
    LikelihoodViews views;
    Operands<4> operands = operands_of(call, views);
    operands.add(views.nll, each);
    operands.add(views.grad, grad);
    if (fit(call, operands, views)) return Device::forward(call, views, each ? nullptr : nll);
    std::optional<Tensor> dense_nll = contiguous_like(each), dense_grad = contiguous_like(grad);
    run_forward(call.contiguous(), each ? address(dense_nll) : nll, address(dense_grad));
    copy_back(each, dense_nll);
    copy_back(grad, dense_grad);
  }

  // unless_one: leave grad unchanged if grad_nll, a single number, turns out to be 1.
  static void run_backward(const LikelihoodCall& call, const Tensor& grad_nll, Tensor* grad, bool unless_one) {
    const std::vector<int64_t> strides = broadcast_strides(call.decoded, grad_nll, call.reduction, "grad_nll");
    if (call.decoded.numel() == 0) return;
    LikelihoodViews views;
    Operands<4> operands = operands_of(call, views);
    operands.add(views.grad, grad);
    operands.add(views.grad_nll, grad_nll, strides.data());
    if (fit(call, operands, views)) return Device::backward(call, views, unless_one);
    std::optional<Tensor> dense_grad = contiguous_like(grad);
    if (unless_one) torch::stable::copy_(*dense_grad, *grad);
    run_backward(call.contiguous(), torch::stable::contiguous(grad_nll), address(dense_grad), unless_one);
    copy_back(grad, dense_grad);
  }
};

}  // namespace betavae_fast
