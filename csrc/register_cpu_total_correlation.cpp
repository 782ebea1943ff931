// The aggregated posterior of the C++ backend: tensors in, laid out for the kernels, gradients summed.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "include/mixture.h"
#include "include/storage.h"
#include "latent_tensors.h"
#include "mixture_tensors.h"
#include "views.h"

namespace betavae_fast {
namespace {

constexpr int64_t lanes = Pairs::lanes;

void check_inputs(const Tensor& z, const Tensor& mu, const Tensor& logvar, int64_t first_row, int64_t dataset_size,
                  int64_t estimator) {
  STD_TORCH_CHECK(z.is_cpu() && mu.is_cpu() && logvar.is_cpu(), "z, mu and logvar must be CPU tensors");
  check_mixture(z, mu, logvar, first_row, dataset_size, estimator);
}

template <class Real>
using Buffer = std::unique_ptr<Real[]>;

template <class Real>
Buffer<Real> buffer(int64_t size) {
  return Buffer<Real>(new Real[static_cast<size_t>(size)]);
}

// Calls visit(i) for every i, on all threads.
template <class Visit>
void for_each(int64_t size, Visit visit) {
  torch::stable::parallel_for(0, size, 4096, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) visit(i);
  });
}

// Calls use(pointer to the elements) with the tensor's own type.
template <class Use>
void typed(const Tensor& x, Use use) {
  const void* data = x.data_ptr();
  switch (dtype_of(x)) {
    case DType::float16: return use(static_cast<const Half*>(data));
    case DType::bfloat16: return use(static_cast<const BFloat16*>(data));
    case DType::float32: return use(static_cast<const float*>(data));
    case DType::float64: return use(static_cast<const double*>(data));
  }
}

template <class Real>
Buffer<Real> widened(const Tensor& x) {
  const Tensor dense = torch::stable::contiguous(x);
  Buffer<Real> result = buffer<Real>(x.numel());
  typed(dense, [&](const auto* from) {
    for_each(x.numel(), [&](int64_t i) { result[i] = static_cast<Real>(widen(from[i])); });
  });
  return result;
}

// (b, D) or (b,) as [block][d][lane], zero where there is no row.
template <class Real>
Buffer<Real> by_blocks(const Tensor& x, const Pairs& pairs) {
  const int64_t dims = x.dim() == 1 ? 1 : pairs.dims;
  const Buffer<Real> rows = widened<Real>(x);
  Buffer<Real> result = buffer<Real>(pairs.padded_rows() * dims);
  for_each(pairs.padded_rows() / lanes * dims, [&](int64_t i) {
    for (int64_t k = 0; k < lanes; ++k) {
      const int64_t row = i / dims * lanes + k;
      result[i * lanes + k] = row < pairs.rows ? rows[row * dims + i % dims] : Real(0);
    }
  });
  return result;
}

// Logarithms that forward left, in base 2 and without the weight of all pairs, and their gradients. What rounding them
// to Real takes away, which is much beside the kernels' own errors where they are hundreds, goes into the gradients as
// a factor.
template <class Real>
struct Saved {
  Buffer<Real> log, grad;

  Saved(const Tensor& logs, const Tensor& grads, const Pairs& pairs, double weight) {
    const int64_t dims = logs.dim() == 1 ? 1 : pairs.dims;
    const Buffer<double> exact = by_blocks<double>(logs, pairs);
    log = buffer<Real>(pairs.padded_rows() * dims);
    grad = by_blocks<Real>(grads, pairs);
    for_each(pairs.padded_rows() * dims, [&](int64_t i) {
      // No posterior is responsible for a row that lies infinitely far from all of them, or that there is not.
      if (std::isinf(exact[i]) || i / (dims * lanes) * lanes + i % lanes >= pairs.rows) {
        log[i] = std::numeric_limits<Real>::max();
        return;
      }
      const double value = log2_e<double> * exact[i] - weight;
      log[i] = static_cast<Real>(value);
      grad[i] *= static_cast<Real>(std::exp2(static_cast<double>(log[i]) - value));
    });
  }
};

// The inputs as the kernels want them; `problem` points into them.
template <class Real>
struct Inputs {
  Buffer<Real> z;
  Buffer<Posteriors<Real>> posteriors;

  Inputs(const Tensor& z_, const Tensor& mu_, const Tensor& logvar, int64_t first_row, int64_t dataset_size,
         int64_t estimator, Mixture<Real>& problem) {
    const Pairs pairs = {z_.size(0), mu_.size(0), z_.size(1)};
    problem.pairs = pairs;
    problem.weights = weights_of(mu_.size(0), dataset_size, estimator);
    problem.first_row = first_row;
    z = by_blocks<Real>(z_, pairs);
    posteriors = buffer<Posteriors<Real>>(pairs.tiles() * pairs.dims);
    const Buffer<Real> mus = widened<Real>(mu_), logvars = widened<Real>(logvar);
    for_each(pairs.tiles() * pairs.dims, [&](int64_t i) {
      Posteriors<Real>& to = posteriors[i];
      for (int64_t j = 0; j < Pairs::tile; ++j) {
        const int64_t posterior = i / pairs.dims * Pairs::tile + j, from = posterior * pairs.dims + i % pairs.dims;
        const bool exists = posterior < pairs.posteriors;
        const Real v = exists ? logvars[from] : Real(0);
        to.mu[j] = exists ? mus[from] : Real(0);
        const Wider<Real> inverse = inverse_width(v);
        to.inverse_width[j] = static_cast<Real>(inverse);
        to.rounded_off[j] = static_cast<Real>(inverse / Wider<Real>(to.inverse_width[j]) - 1);
        to.peak[j] = exists ? static_cast<Real>(peak(v)) : -std::numeric_limits<Real>::infinity();
      }
    });
    problem.z = z.get();
    problem.posteriors = posteriors.get();
  }
};

template <class Real>
const MixtureKernels<Real>& kernels() {
  if constexpr (sizeof(Real) == sizeof(float))
    return total_correlation_kernels().narrow;
  else
    return total_correlation_kernels().wide;
}

template <class Real>
void forward(const Tensor& z, const Tensor& mu, const Tensor& logvar, int64_t first_row, int64_t dataset_size,
             int64_t estimator, Tensor& joint, Tensor& marginals) {
  MixtureForward<Real> p;
  const Inputs<Real> inputs(z, mu, logvar, first_row, dataset_size, estimator, p);
  p.joint = static_cast<double*>(joint.data_ptr());
  p.marginals = static_cast<double*>(marginals.data_ptr());
  torch::stable::parallel_for(0, p.pairs.blocks(), 1,
                              [&](int64_t first, int64_t last) { kernels<Real>().forward(p, first, last); });
}

std::tuple<Tensor, Tensor> total_correlation_forward(const Tensor& z, const Tensor& mu, const Tensor& logvar,
                                                     int64_t first_row, int64_t dataset_size, int64_t estimator) {
  check_inputs(z, mu, logvar, first_row, dataset_size, estimator);
  Tensor joint = torch::stable::new_empty(z, Sizes(z.sizes().data(), 1), ScalarType::Double);
  Tensor marginals = torch::stable::new_empty(z, Sizes(z.sizes().data(), 2), ScalarType::Double);
  if (z.size(0) == 0) return {joint, marginals};
  if (z.scalar_type() == ScalarType::Double)
    forward<double>(z, mu, logvar, first_row, dataset_size, estimator, joint, marginals);
  else
    forward<float>(z, mu, logvar, first_row, dataset_size, estimator, joint, marginals);
  return {joint, marginals};
}

// The numbers of x, rounded to the result's dtype.
template <class Visit>
void write(Tensor& result, Visit visit) {
  typed(result, [&](const auto* elements) {
    auto* to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(elements)>>*>(elements);
    for_each(result.numel(), [&](int64_t i) { narrow(visit(i), to[i]); });
  });
}

template <class Real>
void backward(const Tensor& grad_joint, const Tensor& grad_marginals, const Tensor& z, const Tensor& mu,
              const Tensor& logvar, const Tensor& joint, const Tensor& marginals, int64_t first_row,
              int64_t dataset_size, int64_t estimator, Tensor& grad_z, Tensor& grad_mu, Tensor& grad_logvar) {
  MixtureBackward<Real> p;
  const Inputs<Real> inputs(z, mu, logvar, first_row, dataset_size, estimator, p);
  const Saved<Real> joints(joint, grad_joint, p.pairs, p.weights.all),
      each(marginals, grad_marginals, p.pairs, p.weights.all);
  const int64_t copies = p.pairs.chunks(), size = mu.numel();
  const Buffer<Real> z_sums = buffer<Real>(z.numel());
  const Buffer<Real> mu_sums = buffer<Real>(copies * size), v_sums = buffer<Real>(copies * size);
  p.grad_joint = joints.grad.get();
  p.grad_marginals = each.grad.get();
  p.joint = joints.log.get();
  p.marginals = each.log.get();
  p.grad_z = z_sums.get();
  p.grad_mu = mu_sums.get();
  p.grad_logvar = v_sums.get();
  torch::stable::parallel_for(0, copies, 1,
                              [&](int64_t first, int64_t last) { kernels<Real>().backward(p, first, last); });
  const auto sum = [copies, size](const Buffer<Real>& parts) {
    return [&parts, copies, size](int64_t i) {
      double total = 0;
      for (int64_t copy = 0; copy < copies; ++copy) total += static_cast<double>(parts[copy * size + i]);
      return static_cast<Real>(total);
    };
  };
  write(grad_z, [&](int64_t i) { return z_sums[i]; });
  write(grad_mu, sum(mu_sums));
  write(grad_logvar, sum(v_sums));
}

std::tuple<Tensor, Tensor, Tensor> total_correlation_backward(const Tensor& grad_joint, const Tensor& grad_marginals,
                                                              const Tensor& z, const Tensor& mu, const Tensor& logvar,
                                                              const Tensor& joint, const Tensor& marginals,
                                                              int64_t first_row, int64_t dataset_size,
                                                              int64_t estimator) {
  check_inputs(z, mu, logvar, first_row, dataset_size, estimator);
  for (const Tensor* x : {&grad_joint, &joint})
    STD_TORCH_CHECK(x->is_cpu() && x->dim() == 1 && x->size(0) == z.size(0) && x->scalar_type() == ScalarType::Double,
                    "joint and its gradient must be float64 CPU tensors of shape (b,)");
  for (const Tensor* x : {&grad_marginals, &marginals})
    STD_TORCH_CHECK(x->is_cpu() && same_shape(*x, z) && x->scalar_type() == ScalarType::Double,
                    "marginals and their gradient must be float64 CPU tensors of z's shape");
  const auto result = [](const Tensor& x) { return torch::stable::new_empty(x, Sizes(x.sizes().data(), 2)); };
  Tensor grad_z = result(z), grad_mu = result(mu), grad_logvar = result(logvar);
  if (z.numel() == 0) {
    torch::stable::zero_(grad_mu);
    torch::stable::zero_(grad_logvar);
  } else if (z.scalar_type() == ScalarType::Double) {
    backward<double>(grad_joint, grad_marginals, z, mu, logvar, joint, marginals, first_row, dataset_size, estimator,
                     grad_z, grad_mu, grad_logvar);
  } else {
    backward<float>(grad_joint, grad_marginals, z, mu, logvar, joint, marginals, first_row, dataset_size, estimator,
                    grad_z, grad_mu, grad_logvar);
  }
  return {grad_z, grad_mu, grad_logvar};
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  m.impl("total_correlation_forward_cpp", TORCH_BOX(&betavae_fast::total_correlation_forward));
  m.impl("total_correlation_backward_cpp", TORCH_BOX(&betavae_fast::total_correlation_backward));
}
