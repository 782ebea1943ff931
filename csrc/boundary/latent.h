// The latent op's operators on any device: they check the arguments, allocate the results and describe the operands as
// views.
//
// A device provides, in addition to the members of Cpu and Cuda,
//   static void forward(const LatentCall&, const LatentViews&, Tensor* kl)   kl: the reduced KL, or null
//   static void backward(const LatentCall&, const LatentViews&).
#pragma once

#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <tuple>

#include "../include/latent.h"
#include "tensors.h"

namespace betavae_fast {

struct LatentCall {
  Tensor mu, logvar;
  std::optional<Tensor> rng, noise;  // exactly one is given if z is sampled or has a gradient
  int64_t first_row = 0;
  LatentSettings<double> settings{};
  Reduction reduction = Reduction::none;

  LatentCall contiguous() const {
    LatentCall call = *this;
    call.mu = torch::stable::contiguous(mu);
    call.logvar = torch::stable::contiguous(logvar);
    call.noise = betavae_fast::contiguous(noise);
    return call;
  }
};

// A view's data is null if the operand is not given or not wanted.
struct LatentViews {
  Problem problem;
  View mu, logvar, noise;
  View z, kl;  // kl is used only with Reduction::none
  View grad_z, grad_kl, grad_mu, grad_logvar;
};

template <class Device>
class LatentOp {
 public:
  // Registers the operators as those of the device's backend.
  template <class Library>
  static void implement(Library& library) {
    const std::string backend = Device::backend;
    library.impl(("latent_forward_" + backend).c_str(), TORCH_BOX(&LatentOp::forward));
    library.impl(("latent_sample_" + backend).c_str(), TORCH_BOX(&LatentOp::sample));
    library.impl(("latent_kl_" + backend).c_str(), TORCH_BOX(&LatentOp::kl));
    library.impl(("latent_backward_" + backend).c_str(), TORCH_BOX(&LatentOp::backward));
    library.impl(("latent_backward_packed_" + backend).c_str(), TORCH_BOX(&LatentOp::backward_packed));
  }

  static std::tuple<Tensor, Tensor> forward(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                            std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                            double logvar_max, int64_t reduction) {
    const LatentCall call = {mu, logvar, rng, noise, first_row, {logvar_min, logvar_max}, Reduction(reduction)};
    check(call);
    check_noise(call);
    Tensor z = Device::result_like(mu), kl = empty_reduced(mu, call.reduction);
    run_forward(call, &z, &kl);
    return {z, kl};
  }

  static Tensor sample(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng, std::optional<Tensor> noise,
                       int64_t first_row, double logvar_min, double logvar_max) {
    const LatentCall call = {mu, logvar, rng, noise, first_row, {logvar_min, logvar_max}};
    check(call);
    check_noise(call);
    Tensor z = Device::result_like(mu);
    run_forward(call, &z, nullptr);
    return z;
  }

  static Tensor kl(const Tensor& mu, const Tensor& logvar, double logvar_min, double logvar_max, int64_t reduction) {
    const LatentCall call = {mu, logvar, std::nullopt, std::nullopt, 0, {logvar_min, logvar_max}, Reduction(reduction)};
    check(call);
    Tensor kl = empty_reduced(mu, call.reduction);
    run_forward(call, nullptr, &kl);
    return kl;
  }

  static std::tuple<Tensor, Tensor> backward(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl,
                                             const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                             std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                             double logvar_max, int64_t reduction, bool need_mu, bool need_logvar) {
    Tensor grad_mu = need_mu ? Device::result_like(mu) : no_elements(mu);
    Tensor grad_logvar = need_logvar ? Device::result_like(logvar) : no_elements(logvar);
    gradients({mu, logvar, rng, noise, first_row, {logvar_min, logvar_max}, Reduction(reduction)}, grad_z, grad_kl,
              need_mu ? &grad_mu : nullptr, need_logvar ? &grad_logvar : nullptr);
    return {grad_mu, grad_logvar};
  }

  // packed has shape (B, 2 C, ...): mu is the first half of dimension 1, logvar the second. The gradient has the same
  // form.
  static Tensor backward_packed(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl, const Tensor& packed,
                                std::optional<Tensor> rng, std::optional<Tensor> noise, int64_t first_row,
                                double logvar_min, double logvar_max, int64_t reduction) {
    STD_TORCH_CHECK(packed.dim() > 1 && packed.size(1) % 2 == 0, "packed must hold mu and logvar along dimension 1");
    const Tensor grad = Device::result_like(packed);
    Tensor grad_mu = half(grad, 0), grad_logvar = half(grad, 1);
    gradients({half(packed, 0), half(packed, 1), rng, noise, first_row, {logvar_min, logvar_max}, Reduction(reduction)},
              grad_z, grad_kl, &grad_mu, &grad_logvar);
    return grad;
  }

 private:
  static Tensor half(const Tensor& packed, int64_t index) {
    const int64_t size = packed.size(1) / 2;
    Tensor whole = packed;
    return torch::stable::narrow(whole, 1, index * size, size);
  }

  static void check_like(const Tensor& mu, const Tensor& x, const char* name) {
    STD_TORCH_CHECK(Device::has_beside(mu, x) && x.scalar_type() == mu.scalar_type() && same_shape(mu, x), name,
                    " must be a ", Device::name, " tensor of mu's shape and dtype, on its device");
  }

  static void check(const LatentCall& call) {
    STD_TORCH_CHECK(Device::has(call.mu) && call.mu.dim() > 0, "mu must be a ", Device::name,
                    " tensor with a batch dimension");
    Device::check_dtype(call.mu);
    check_like(call.mu, call.logvar, "logvar");
    if (call.noise) check_like(call.mu, *call.noise, "noise");
    if (!call.rng) return;
    STD_TORCH_CHECK(Device::has_beside(call.mu, *call.rng) && call.rng->scalar_type() == ScalarType::Long &&
                        call.rng->dim() == 1 && call.rng->numel() == 2,
                    "rng must be an int64 ", Device::name, " tensor of shape (2,) on mu's device");
  }

  static void check_noise(const LatentCall& call) {
    STD_TORCH_CHECK(call.rng.has_value() != call.noise.has_value(), "exactly one of rng and noise must be given");
  }

  // Computes whichever of z and kl is not null.
  static void run_forward(const LatentCall& call, Tensor* z, Tensor* kl) {
    if (call.mu.numel() == 0) {
      if (kl) fill_empty(*kl, call.reduction, call.mu.size(0));
      return;
    }
    Tensor* each = kl && call.reduction == Reduction::none ? kl : nullptr;
    LatentViews views;
    Operands<5> operands(call.mu);
    operands.add(views.mu, call.mu);
    operands.add(views.logvar, call.logvar);
    operands.add(views.noise, call.noise);
    operands.add(views.z, z);
    operands.add(views.kl, each);
    if (operands.fit(views.problem)) return Device::forward(call, views, each ? nullptr : kl);
    std::optional<Tensor> dense_z = contiguous_like(z), dense_kl = contiguous_like(each);
    run_forward(call.contiguous(), address(dense_z), each ? address(dense_kl) : kl);
    copy_back(z, dense_z);
    copy_back(each, dense_kl);
  }

  // Writes the gradients whose pointers are not null.
  static void gradients(LatentCall call, const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                        Tensor* grad_mu, Tensor* grad_logvar) {
    check(call);
    if (grad_z) check_like(call.mu, *grad_z, "grad_z");
    if (grad_z) check_noise(call);
    if (grad_kl)
      STD_TORCH_CHECK(Device::has_beside(call.mu, *grad_kl) && grad_kl->scalar_type() == sum_dtype(call.mu),
                      "grad_kl must be a ", Device::name, " tensor of the KL's dtype on mu's device");
    STD_TORCH_CHECK(grad_z || grad_kl, "at least one of grad_z and grad_kl must be given");
    if (call.mu.numel() == 0 || !(grad_mu || grad_logvar)) return;
    // The noise is needed only for the gradient of log sigma^2 that comes through z.
    if (!(grad_z && grad_logvar)) call.rng = call.noise = std::nullopt;
    run_backward(call, grad_z, grad_kl, grad_mu, grad_logvar);
  }

  static void run_backward(const LatentCall& call, const std::optional<Tensor>& grad_z,
                           const std::optional<Tensor>& grad_kl, Tensor* grad_mu, Tensor* grad_logvar) {
    LatentViews views;
    Operands<7> operands(call.mu);
    operands.add(views.mu, call.mu);
    operands.add(views.logvar, call.logvar);
    operands.add(views.noise, call.noise);
    operands.add(views.grad_z, grad_z);
    if (grad_kl)
      operands.add(views.grad_kl, *grad_kl, broadcast_strides(call.mu, *grad_kl, call.reduction, "grad_kl").data());
    operands.add(views.grad_mu, grad_mu);
    operands.add(views.grad_logvar, grad_logvar);
    if (operands.fit(views.problem)) return Device::backward(call, views);
    std::optional<Tensor> dense_mu = contiguous_like(grad_mu), dense_logvar = contiguous_like(grad_logvar);
    run_backward(call.contiguous(), contiguous(grad_z), contiguous(grad_kl), address(dense_mu), address(dense_logvar));
    copy_back(grad_mu, dense_mu);
    copy_back(grad_logvar, dense_logvar);
  }
};

}  // namespace betavae_fast
