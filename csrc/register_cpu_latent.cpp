// The latent op of the C++ backend: tensors in, problems to the kernels, sums out.

#include <torch/csrc/stable/library.h>

#include <array>
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

void check_like(const Tensor& mu, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == mu.scalar_type() && same_shape(mu, x), name,
                  " must be a CPU tensor of mu's shape and dtype");
}

void check_inputs(const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& rng,
                  const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(mu.is_cpu() && mu.dim() > 0, "mu must be a CPU tensor with a batch dimension");
  check_like(mu, logvar, "logvar");
  if (noise) check_like(mu, *noise, "noise");
  if (rng)
    STD_TORCH_CHECK(rng->is_cpu() && rng->scalar_type() == ScalarType::Long && rng->numel() == 2 && rng->dim() == 1,
                    "rng must be an int64 CPU tensor of shape (2,)");
}

NoiseKey key_of(const Tensor& rng) {
  const auto* pair = static_cast<const int64_t*>(rng.data_ptr());
  return {static_cast<uint64_t>(pair[0]), static_cast<uint64_t>(pair[rng.stride(0)])};
}

void describe(LatentProblem& p, const Tensor& mu, double logvar_min, double logvar_max) {
  p.dtype = dtype_of(mu);
  p.logvar_min = logvar_min;
  p.logvar_max = logvar_max;
}

// Where the noise comes from: drawn from rng here, or a view of the tensor given, set with the other views.
void draw_from(LatentProblem& p, const std::optional<Tensor>& rng, const std::optional<Tensor>& noise,
               int64_t first_row) {
  STD_TORCH_CHECK(rng.has_value() != noise.has_value(), "exactly one of rng and noise must be given");
  if (rng) p.key = key_of(*rng);
  p.first_row = first_row;
}

// Units are a few thousand elements each: one alone is not worth a second thread.
template <class Latent, class Kernel>
void run(const Latent& p, bool sums_rows, Kernel kernel) {
  const LatentPartition cut(p.rows, p.cols());
  const LatentWork work(p, cut, sums_rows);
  torch::stable::parallel_for(0, work.units(), 2,
                              [&](int64_t first, int64_t last) { kernel(p, cut, work, first, last); });
}

template <class Real>
void sum_partials(const LatentForward& p, Real* out) {
  const LatentPartition cut(p.rows, p.cols());
  if (p.reduction == KlReduction::sample) {
    for (int64_t row = 0; row < p.rows; ++row) {
      double sum = 0;
      for (int64_t panel = 0; panel < cut.panels; ++panel) sum += p.partial[row * cut.panels + panel];
      out[row] = static_cast<Real>(sum);
    }
    return;
  }
  if (p.reduction == KlReduction::dim) {
    const int64_t cols = p.cols();
    torch::stable::parallel_for(0, cols, 4096, [&](int64_t first, int64_t last) {
      std::unique_ptr<double[]> sum(new double[static_cast<size_t>(last - first)]());
      for (int64_t item = 0; item < cut.row_items; ++item)
        for (int64_t c = first; c < last; ++c) sum[c - first] += p.partial[item * cols + c];
      for (int64_t c = first; c < last; ++c) out[c] = static_cast<Real>(sum[c - first] / static_cast<double>(p.rows));
    });
    return;
  }
  double sum = 0;
  for (int64_t item = 0; item < cut.items(); ++item) sum += p.partial[item];
  *out = static_cast<Real>(p.reduction == KlReduction::batchmean ? sum / static_cast<double>(p.rows) : sum);
}

// Computes whichever of z and kl is not null; both are allocated by the caller.
void forward(LatentForward& p, const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& noise, Tensor* z,
             Tensor* kl) {
  if (mu.numel() == 0) {
    if (kl) fill_empty(*kl, p.reduction, mu.size(0));
    return;
  }
  std::array<Operand, 5> operands;
  size_t count = 0;
  operands[count++] = operand(p.mu, mu);
  operands[count++] = operand(p.logvar, logvar);
  if (noise) operands[count++] = operand(p.noise, *noise);
  if (z) operands[count++] = operand(p.z, *z);
  if (kl && p.reduction == KlReduction::none) operands[count++] = operand(p.kl, *kl);
  if (!fit(mu.sizes(), operands, count, p)) {
    const Tensor flat = torch::stable::contiguous(mu);
    Tensor flat_z = torch::stable::empty_like(flat), flat_kl = kl ? empty_kl(flat, p.reduction) : Tensor();
    forward(p, flat, torch::stable::contiguous(logvar), contiguous(noise), z ? &flat_z : nullptr,
            kl ? &flat_kl : nullptr);
    if (z) torch::stable::copy_(*z, flat_z);
    if (kl) torch::stable::copy_(*kl, flat_kl);
    return;
  }
  std::unique_ptr<double[]> partial;
  if (kl && p.reduction != KlReduction::none) {
    const int64_t partials = LatentPartition(p.rows, p.cols()).partials(p.reduction, p.rows, p.cols());
    partial.reset(new double[static_cast<size_t>(partials)]);
    p.partial = partial.get();
  }
  run(p, p.partial && p.reduction != KlReduction::sample, latent_kernels().forward);
  if (!p.partial) return;
  if (kl->scalar_type() == ScalarType::Double)
    sum_partials(p, static_cast<double*>(kl->data_ptr()));
  else
    sum_partials(p, static_cast<float*>(kl->data_ptr()));
}

std::tuple<Tensor, Tensor> latent_forward(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                          std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                          double logvar_max, int64_t reduction) {
  check_inputs(mu, logvar, rng, noise);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  draw_from(p, rng, noise, first_row);
  p.reduction = static_cast<KlReduction>(reduction);
  Tensor z = with_huge_pages(torch::stable::empty_like(mu)), kl = empty_kl(mu, p.reduction);
  forward(p, mu, logvar, noise, &z, &kl);
  return {z, kl};
}

Tensor latent_sample(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng, std::optional<Tensor> noise,
                     int64_t first_row, double logvar_min, double logvar_max) {
  check_inputs(mu, logvar, rng, noise);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  draw_from(p, rng, noise, first_row);
  Tensor z = with_huge_pages(torch::stable::empty_like(mu));
  forward(p, mu, logvar, noise, &z, nullptr);
  return z;
}

Tensor latent_kl(const Tensor& mu, const Tensor& logvar, double logvar_min, double logvar_max, int64_t reduction) {
  check_inputs(mu, logvar, std::nullopt, std::nullopt);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  p.reduction = static_cast<KlReduction>(reduction);
  Tensor kl = empty_kl(mu, p.reduction);
  forward(p, mu, logvar, std::nullopt, nullptr, &kl);
  return kl;
}

void backward(LatentBackward& p, const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
              const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& noise, KlReduction reduction,
              Tensor* grad_mu, Tensor* grad_logvar) {
  std::array<Operand, 7> operands;
  size_t count = 0;
  operands[count++] = operand(p.mu, mu);
  operands[count++] = operand(p.logvar, logvar);
  if (noise) operands[count++] = operand(p.noise, *noise);
  if (grad_z) operands[count++] = operand(p.grad_z, *grad_z);
  std::vector<int64_t> grad_kl_strides;
  if (grad_kl) {
    grad_kl_strides = spread_strides(mu, *grad_kl, reduction);
    operands[count++] = {&p.grad_kl, grad_kl->data_ptr(), grad_kl_strides.data()};
  }
  if (grad_mu) operands[count++] = operand(p.grad_mu, *grad_mu);
  if (grad_logvar) operands[count++] = operand(p.grad_logvar, *grad_logvar);
  if (!fit(mu.sizes(), operands, count, p)) {
    const Tensor flat = torch::stable::contiguous(mu);
    Tensor flat_grad_mu = torch::stable::empty_like(flat), flat_grad_logvar = torch::stable::empty_like(flat);
    backward(p, contiguous(grad_z), contiguous(grad_kl), flat, torch::stable::contiguous(logvar), contiguous(noise),
             reduction, grad_mu ? &flat_grad_mu : nullptr, grad_logvar ? &flat_grad_logvar : nullptr);
    if (grad_mu) torch::stable::copy_(*grad_mu, flat_grad_mu);
    if (grad_logvar) torch::stable::copy_(*grad_logvar, flat_grad_logvar);
    return;
  }
  const bool mean = reduction == KlReduction::dim || reduction == KlReduction::batchmean;
  if (mean) p.kl_scale = 1.0 / static_cast<double>(p.rows);
  run(p, false, latent_kernels().backward);
}

// Writes the gradients that are not null.
void gradients(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl, const Tensor& mu,
               const Tensor& logvar, const std::optional<Tensor>& rng, const std::optional<Tensor>& noise,
               int64_t first_row, double logvar_min, double logvar_max, int64_t reduction, Tensor* grad_mu,
               Tensor* grad_logvar) {
  check_inputs(mu, logvar, rng, noise);
  if (grad_z) check_like(mu, *grad_z, "grad_z");
  if (grad_kl)
    STD_TORCH_CHECK(grad_kl->is_cpu() && grad_kl->scalar_type() == kl_dtype(mu),
                    "grad_kl must be a CPU tensor of the KL's dtype");
  STD_TORCH_CHECK(grad_z || grad_kl, "at least one of grad_z and grad_kl must be given");
  LatentBackward p;
  describe(p, mu, logvar_min, logvar_max);
  if (grad_z) draw_from(p, rng, noise, first_row);
  if (mu.numel() > 0 && (grad_mu || grad_logvar))
    backward(p, grad_z, grad_kl, mu, logvar, grad_z ? noise : std::nullopt, static_cast<KlReduction>(reduction),
             grad_mu, grad_logvar);
}

std::tuple<Tensor, Tensor> latent_backward(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl,
                                           const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                           std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                           double logvar_max, int64_t reduction, bool need_mu, bool need_logvar) {
  const int64_t none = 0;
  const auto gradient = [&none](const Tensor& x, bool needed) {
    return needed ? with_huge_pages(torch::stable::empty_like(x)) : torch::stable::new_empty(x, Sizes(&none, 1));
  };
  Tensor grad_mu = gradient(mu, need_mu), grad_logvar = gradient(logvar, need_logvar);
  gradients(grad_z, grad_kl, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction,
            need_mu ? &grad_mu : nullptr, need_logvar ? &grad_logvar : nullptr);
  return {grad_mu, grad_logvar};
}

Tensor latent_backward_packed(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl, const Tensor& packed,
                              std::optional<Tensor> rng, std::optional<Tensor> noise, int64_t first_row,
                              double logvar_min, double logvar_max, int64_t reduction) {
  const Tensor grad = with_huge_pages(torch::stable::empty_like(packed));
  const auto [mu, logvar] = halves(packed);
  auto [grad_mu, grad_logvar] = halves(grad);
  gradients(grad_z, grad_kl, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction, &grad_mu,
            &grad_logvar);
  return grad;
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  m.impl("latent_forward_cpp", TORCH_BOX(&betavae_fast::latent_forward));
  m.impl("latent_sample_cpp", TORCH_BOX(&betavae_fast::latent_sample));
  m.impl("latent_kl_cpp", TORCH_BOX(&betavae_fast::latent_kl));
  m.impl("latent_backward_cpp", TORCH_BOX(&betavae_fast::latent_backward));
  m.impl("latent_backward_packed_cpp", TORCH_BOX(&betavae_fast::latent_backward_packed));
}
