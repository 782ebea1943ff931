// The operators of the aggregated posterior's log-densities on any device: they check the arguments and allocate the
// results.
//
// A device provides, in addition to the members of Cpu and Cuda,
//   static void check(const LogDensitiesCall&)                    checks that only this device needs
//   static void forward(const LogDensitiesCall&, Tensor& joint, Tensor& marginals)
//   static void backward(const LogDensitiesCall&, const LogDensitiesResults&, LogDensitiesGradients&).
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "tensors.h"

namespace betavae_fast {

// The samples z (b, D) and the posteriors mu and logvar (B, D). The samples are those of the batch's rows from
// first_row on.
struct LogDensitiesCall {
  Tensor z, mu, logvar;
  int64_t first_row, dataset_size, estimator;
};

// The results of forward and their gradients, float64: (b,) for the joint and (b, D) for the marginals.
struct LogDensitiesResults {
  Tensor grad_joint, grad_marginals, joint, marginals;
};

struct LogDensitiesGradients {
  Tensor z, mu, logvar;
};

template <class Device>
class LogDensitiesOp {
 public:
  // Registers the operators as those of the device's backend.
  template <class Library>
  static void implement(Library& library) {
    const std::string backend = Device::backend;
    library.impl(("log_densities_forward_" + backend).c_str(), TORCH_BOX(&LogDensitiesOp::forward));
    library.impl(("log_densities_backward_" + backend).c_str(), TORCH_BOX(&LogDensitiesOp::backward));
  }

  static std::tuple<Tensor, Tensor> forward(const Tensor& z, const Tensor& mu, const Tensor& logvar, int64_t first_row,
                                            int64_t dataset_size, int64_t estimator) {
    const LogDensitiesCall call = {z, mu, logvar, first_row, dataset_size, estimator};
    check(call);
    Tensor joint = torch::stable::new_empty(z, Sizes(z.sizes().data(), 1), ScalarType::Double);
    Tensor marginals = torch::stable::new_empty(z, Sizes(z.sizes().data(), 2), ScalarType::Double);
    if (z.size(0) > 0) Device::forward(call, joint, marginals);
    return {joint, marginals};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_joint, const Tensor& grad_marginals,
                                                     const Tensor& z, const Tensor& mu, const Tensor& logvar,
                                                     const Tensor& joint, const Tensor& marginals, int64_t first_row,
                                                     int64_t dataset_size, int64_t estimator) {
    const LogDensitiesCall call = {z, mu, logvar, first_row, dataset_size, estimator};
    check(call);
    for (const Tensor* x : {&grad_joint, &joint})
      STD_TORCH_CHECK(is_float64(call, *x) && x->dim() == 1 && x->size(0) == z.size(0),
                      "joint and its gradient must be float64 ", Device::name, " tensors of shape (b,) on z's device");
    for (const Tensor* x : {&grad_marginals, &marginals})
      STD_TORCH_CHECK(is_float64(call, *x) && same_shape(*x, z), "marginals and their gradient must be float64 ",
                      Device::name, " tensors of z's shape on its device");
    LogDensitiesGradients grads = {dense(z), dense(mu), dense(logvar)};
    if (z.numel() > 0) {
      Device::backward(call, {grad_joint, grad_marginals, joint, marginals}, grads);
    } else {
      torch::stable::zero_(grads.mu);
      torch::stable::zero_(grads.logvar);
    }
    return {grads.z, grads.mu, grads.logvar};
  }

 private:
  static Tensor dense(const Tensor& x) { return torch::stable::new_empty(x, x.sizes()); }

  static bool is_float64(const LogDensitiesCall& call, const Tensor& x) {
    return Device::has_beside(call.z, x) && x.scalar_type() == ScalarType::Double;
  }

  static void check(const LogDensitiesCall& call) {
    const auto& [z, mu, logvar, first_row, dataset_size, estimator] = call;
    STD_TORCH_CHECK(Device::has(z) && Device::has_beside(z, mu) && Device::has_beside(z, logvar),
                    "z, mu and logvar must be ", Device::name, " tensors on one device");
    Device::check_dtype(z);
    STD_TORCH_CHECK(z.dim() == 2 && mu.dim() == 2 && same_shape(mu, logvar) && z.size(1) == mu.size(1),
                    "z must have shape (b, D), mu and logvar (B, D)");
    STD_TORCH_CHECK(mu.scalar_type() == z.scalar_type() && logvar.scalar_type() == z.scalar_type(),
                    "z, mu and logvar must have one dtype");
    STD_TORCH_CHECK(first_row >= 0 && first_row <= mu.size(0) - z.size(0), "z's ", z.size(0), " rows from ", first_row,
                    " on are not all among the ", mu.size(0), " posteriors");
    STD_TORCH_CHECK(dataset_size >= mu.size(0) && dataset_size > 0, "dataset_size must be at least ", mu.size(0),
                    ", got ", dataset_size);
    STD_TORCH_CHECK(estimator == 0 || (estimator == 1 && mu.size(0) != 1),
                    "estimator must be 0 (mws) or, for a batch of 2 or more, 1 (mss)");
    Device::check(call);
  }
};

}  // namespace betavae_fast
