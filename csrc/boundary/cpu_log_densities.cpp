// The aggregated posterior's log-densities of the cpp backend: copies the inputs into the kernels' layout and adds up
// the gradients.

#include <cmath>
#include <limits>

#include "../cpu/dispatch.h"
#include "../include/log_densities.h"
#include "../include/storage.h"
#include "buffer.h"
#include "cpu.h"
#include "log_densities.h"

namespace betavae_fast {
namespace {

constexpr int64_t lanes = Pairs::lanes;

// Calls visit(i) for every i below size, on all threads.
template <class Visit>
void for_each(int64_t size, Visit visit) {
  torch::stable::parallel_for(0, size, 4096, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) visit(i);
  });
}

// Calls use() with a pointer to the elements in the tensor's own type.
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

// Copies x, of shape (b, D) or (b,), into the layout [block][d][lane]; padded rows are 0.
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

// The logarithms that forward returned, in base 2 and without the weight of all pairs, and their gradients. A logarithm
// may be hundreds, and rounding it to Real then loses much more than the kernels' own errors, so the gradients are
// multiplied by a factor that makes up for the rounding.
template <class Real>
struct Saved {
  Buffer<Real> log, grad;

  Saved(const Tensor& logs, const Tensor& grads, const Pairs& pairs, double weight) {
    const int64_t dims = logs.dim() == 1 ? 1 : pairs.dims;
    const Buffer<double> exact = by_blocks<double>(logs, pairs);
    log = buffer<Real>(pairs.padded_rows() * dims);
    grad = by_blocks<Real>(grads, pairs);
    for_each(pairs.padded_rows() * dims, [&](int64_t i) {
      // For a padded row, or a row infinitely far from every posterior, no posterior is responsible.
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

// The inputs in the kernels' layout; `problem` points into them.
template <class Real>
struct Inputs {
  Buffer<Real> z;
  Buffer<Posteriors<Real>> posteriors;

  Inputs(const LogDensitiesCall& call, LogDensitiesProblem<Real>& problem) {
    const Pairs pairs = {call.z.size(0), call.mu.size(0), call.z.size(1)};
    problem.pairs = pairs;
    problem.weights = weights_of(pairs.posteriors, call.dataset_size, call.estimator);
    problem.first_row = call.first_row;
    z = by_blocks<Real>(call.z, pairs);
    posteriors = buffer<Posteriors<Real>>(pairs.tiles() * pairs.dims);
    const Buffer<Real> mus = widened<Real>(call.mu), logvars = widened<Real>(call.logvar);
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
const LogDensitiesKernelsOf<Real>& kernels() {
  if constexpr (sizeof(Real) == sizeof(float))
    return log_densities_kernels().narrow;
  else
    return log_densities_kernels().wide;
}

template <class Real>
void forward(const LogDensitiesCall& call, Tensor& joint, Tensor& marginals) {
  LogDensitiesForward<Real> p;
  const Inputs<Real> inputs(call, p);
  p.joint = static_cast<double*>(joint.data_ptr());
  p.marginals = static_cast<double*>(marginals.data_ptr());
  torch::stable::parallel_for(0, p.pairs.blocks(), 1,
                              [&](int64_t first, int64_t last) { kernels<Real>().forward(p, first, last); });
}

// Calls use() with a pointer through which the result's elements can be written.
template <class Use>
void typed_result(Tensor& result, Use use) {
  typed(result, [&](const auto* elements) {
    use(const_cast<std::remove_const_t<std::remove_pointer_t<decltype(elements)>>*>(elements));
  });
}

// Adds up the chunks' gradients of mu or logvar, stored as [chunk][tile][d][j], and writes the sums to the result.
template <class Real>
void write_sums(const Pairs& pairs, const Real* parts, Tensor& result) {
  const int64_t dims = pairs.dims, units = pairs.tiles() * dims;
  typed_result(result, [&](auto* to) {
    torch::stable::parallel_for(0, units, 4096 / Pairs::tile, [&](int64_t first, int64_t last) {
      for (int64_t unit = first; unit < last; ++unit) {
        double sums[Pairs::tile] = {};
        for (int64_t chunk = 0; chunk < pairs.chunks(); ++chunk)
          for (int64_t j = 0; j < Pairs::tile; ++j) sums[j] += parts[(chunk * units + unit) * Pairs::tile + j];
        const int64_t row = unit / dims * Pairs::tile, d = unit % dims;
        for (int64_t j = 0; j < Pairs::tile && row + j < pairs.posteriors; ++j)
          narrow(static_cast<Real>(sums[j]), to[(row + j) * dims + d]);
      }
    });
  });
}

template <class Real>
void backward(const LogDensitiesCall& call, const LogDensitiesResults& logs, LogDensitiesGradients& grads) {
  LogDensitiesBackward<Real> p;
  const Inputs<Real> inputs(call, p);
  const Saved<Real> joints(logs.joint, logs.grad_joint, p.pairs, p.weights.all),
      each(logs.marginals, logs.grad_marginals, p.pairs, p.weights.all);
  const int64_t parts = p.pairs.chunks() * p.pairs.tiles() * p.pairs.dims * Pairs::tile;
  const Buffer<Real> z = buffer<Real>(call.z.numel()), mu = buffer<Real>(parts), logvar = buffer<Real>(parts);
  p.grad_joint = joints.grad.get();
  p.grad_marginals = each.grad.get();
  p.joint = joints.log.get();
  p.marginals = each.log.get();
  p.grad_z = z.get();
  p.grad_mu = mu.get();
  p.grad_logvar = logvar.get();
  torch::stable::parallel_for(0, p.pairs.chunks(), 1,
                              [&](int64_t first, int64_t last) { kernels<Real>().backward(p, first, last); });
  typed_result(grads.z, [&](auto* to) { for_each(call.z.numel(), [&](int64_t i) { narrow(z[i], to[i]); }); });
  write_sums(p.pairs, mu.get(), grads.mu);
  write_sums(p.pairs, logvar.get(), grads.logvar);
}

struct LogDensitiesCpu : Cpu {
  static void check(const LogDensitiesCall&) {}

  static void forward(const LogDensitiesCall& call, Tensor& joint, Tensor& marginals) {
    const bool wide = call.z.scalar_type() == ScalarType::Double;
    (wide ? betavae_fast::forward<double> : betavae_fast::forward<float>)(call, joint, marginals);
  }

  static void backward(const LogDensitiesCall& call, const LogDensitiesResults& logs, LogDensitiesGradients& grads) {
    const bool wide = call.z.scalar_type() == ScalarType::Double;
    (wide ? betavae_fast::backward<double> : betavae_fast::backward<float>)(call, logs, grads);
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  betavae_fast::LogDensitiesOp<betavae_fast::LogDensitiesCpu>::implement(m);
}
