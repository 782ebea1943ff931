// The latent op of the CUDA backend: tensors in, launches on torch's current stream. No CUDA header is needed here.

#include <torch/csrc/stable/library.h>

#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/latent.h"
#include "latent_tensors.h"
#include "register_cuda.h"
#include "views.h"

namespace betavae_fast {
namespace {

using cuda::Keeps;
using cuda::LatentArguments;
using cuda::LatentBackward;
using cuda::LatentForward;
using cuda::Partition;
using cuda::Tiled;

void check_like(const Tensor& mu, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == mu.get_device_index() && x.scalar_type() == mu.scalar_type() &&
                      same_shape(mu, x),
                  name, " must be a tensor of mu's shape and dtype on its CUDA device");
}

void check_inputs(const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(mu.is_cuda() && mu.dim() > 0, "mu must be a CUDA tensor with a batch dimension");
  check_not_float64(mu);
  check_like(mu, logvar, "logvar");
  if (noise) check_like(mu, *noise, "noise");
}

// The tensor must outlive the launch: it is freed in stream order.
struct Rng {
  std::optional<Tensor> pair;

  Rng(const Tensor& mu, const std::optional<Tensor>& rng, const std::optional<Tensor>& noise) {
    STD_TORCH_CHECK(rng.has_value() != noise.has_value(), "exactly one of rng and noise must be given");
    if (!rng) return;
    STD_TORCH_CHECK(rng->is_cuda() && rng->get_device_index() == mu.get_device_index() &&
                        rng->scalar_type() == ScalarType::Long && rng->dim() == 1 && rng->numel() == 2,
                    "rng must be an int64 tensor of shape (2,) on mu's CUDA device");
    pair = rng->stride(0) == 1 ? *rng : torch::stable::contiguous(*rng);
  }
  const int64_t* data() const { return pair ? static_cast<const int64_t*>(pair->data_ptr()) : nullptr; }
};

void describe(LatentArguments& p, const Tensor& mu, double logvar_min, double logvar_max) {
  p.dtype = dtype_of(mu);
  p.logvar_min = static_cast<float>(logvar_min);
  p.logvar_max = static_cast<float>(logvar_max);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  p.clamps = logvar_min > -infinity || logvar_max < infinity;
}

// Computes whichever of z and kl is not null; both are allocated by the caller. rng and noise: neither, where z is not
// wanted.
void forward(LatentForward p, const Tensor& mu, const Tensor& logvar, const Rng* rng,
             const std::optional<Tensor>& noise, int64_t first_row, KlReduction reduction, Tensor* z, Tensor* kl) {
  if (mu.numel() == 0) {
    if (kl) fill_empty(*kl, reduction, mu.size(0));
    return;
  }
  std::array<Operand, 5> operands;
  size_t count = 0;
  operands[count++] = operand(p.mu, mu);
  operands[count++] = operand(p.logvar, logvar);
  if (noise) operands[count++] = operand(p.noise, *noise);
  if (z) operands[count++] = operand(p.z, *z);
  if (kl && reduction == KlReduction::none) operands[count++] = operand(p.kl, *kl);
  if (!fit(mu.sizes(), operands, count, p.problem)) {
    const Tensor flat = torch::stable::contiguous(mu);
    Tensor flat_z = torch::stable::empty_like(flat), flat_kl = kl ? empty_kl(flat, reduction) : Tensor();
    forward(p, flat, torch::stable::contiguous(logvar), rng, contiguous(noise), first_row, reduction,
            z ? &flat_z : nullptr, kl ? &flat_kl : nullptr);
    if (z) torch::stable::copy_(*z, flat_z);
    if (kl) torch::stable::copy_(*kl, flat_kl);
    return;
  }
  const Keeps keeps = kl ? cuda::keeps_of(reduction) : Keeps::nothing;
  p.cut = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), keeps, cuda::tuning);
  check_grid(p.cut);
  p.rng = rng ? rng->data() : nullptr;
  p.first_element = first_row * p.problem.cols();
  p.reduction = reduction;
  const int64_t bytes = static_cast<int64_t>(mu.element_size());
  p.vector = !p.rng || p.first_element % 4 == 0;
  for (Tiled* view : {&p.mu, &p.logvar, &p.noise, &p.z})
    p.vector = vectorize(p.problem, p.cut, bytes, *view) && p.vector;
  p.vector = vectorize(p.problem, p.cut, sizeof(float), p.kl) && p.vector;

  std::optional<SumsInto> sums;
  if (kl && reduction != KlReduction::none) {
    sums.emplace(*kl, p.cut, reduction, p.problem.rows);
    p.sums = sums->data();
    p.scale = sums->scale();
  }
  const Queue queue(mu);
  check(cuda::latent_forward(p, queue.stream()), "latent_forward");
  if (sums) sums->finish(queue);
}

std::tuple<Tensor, Tensor> latent_forward(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                          std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                          double logvar_max, int64_t reduction) {
  check_inputs(mu, logvar, noise);
  const Rng pair(mu, rng, noise);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  const auto how = static_cast<KlReduction>(reduction);
  Tensor z = torch::stable::empty_like(mu), kl = empty_kl(mu, how);
  forward(p, mu, logvar, &pair, noise, first_row, how, &z, &kl);
  return {z, kl};
}

Tensor latent_sample(const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng, std::optional<Tensor> noise,
                     int64_t first_row, double logvar_min, double logvar_max) {
  check_inputs(mu, logvar, noise);
  const Rng pair(mu, rng, noise);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  Tensor z = torch::stable::empty_like(mu);
  forward(p, mu, logvar, &pair, noise, first_row, KlReduction::none, &z, nullptr);
  return z;
}

Tensor latent_kl(const Tensor& mu, const Tensor& logvar, double logvar_min, double logvar_max, int64_t reduction) {
  check_inputs(mu, logvar, std::nullopt);
  LatentForward p;
  describe(p, mu, logvar_min, logvar_max);
  const auto how = static_cast<KlReduction>(reduction);
  Tensor kl = empty_kl(mu, how);
  forward(p, mu, logvar, nullptr, std::nullopt, 0, how, nullptr, &kl);
  return kl;
}

// What of the KL's gradient stays the same along a row or a column, and is read only once.
Keeps keeps_of(const Tiled& grad_kl) {
  if (!grad_kl.data) return Keeps::nothing;
  const bool along_cols = grad_kl.outer != 0 || grad_kl.inner != 0;
  if (grad_kl.row == 0) return along_cols ? Keeps::columns : Keeps::nothing;
  return along_cols ? Keeps::nothing : Keeps::rows;
}

void backward(LatentBackward p, const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
              const Tensor& mu, const Tensor& logvar, const Rng* rng, const std::optional<Tensor>& noise,
              int64_t first_row, KlReduction reduction, Tensor* grad_mu, Tensor* grad_logvar) {
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
  if (!fit(mu.sizes(), operands, count, p.problem)) {
    const Tensor flat = torch::stable::contiguous(mu);
    Tensor flat_grad_mu = torch::stable::empty_like(flat), flat_grad_logvar = torch::stable::empty_like(flat);
    backward(p, contiguous(grad_z), contiguous(grad_kl), flat, torch::stable::contiguous(logvar), rng,
             contiguous(noise), first_row, reduction, grad_mu ? &flat_grad_mu : nullptr,
             grad_logvar ? &flat_grad_logvar : nullptr);
    if (grad_mu) torch::stable::copy_(*grad_mu, flat_grad_mu);
    if (grad_logvar) torch::stable::copy_(*grad_logvar, flat_grad_logvar);
    return;
  }
  const Keeps keeps = keeps_of(p.grad_kl);
  p.cut = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), keeps, cuda::tuning);
  check_grid(p.cut);
  p.rng = rng ? rng->data() : nullptr;
  p.first_element = first_row * p.problem.cols();
  const int64_t bytes = static_cast<int64_t>(mu.element_size());
  p.vector = !p.rng || p.first_element % 4 == 0;
  for (Tiled* view : {&p.mu, &p.logvar, &p.noise, &p.grad_z, &p.grad_mu, &p.grad_logvar})
    p.vector = vectorize(p.problem, p.cut, bytes, *view) && p.vector;
  p.grad_kl_vector = p.grad_kl.row != 0 && vectorize(p.problem, p.cut, sizeof(float), p.grad_kl);
  // The 16-byte path takes a gradient that is kept, one a row if no group meets two rows, or one an element.
  const bool fits =
      !p.grad_kl.data || p.grad_kl.row == 0 || p.grad_kl_vector || (keeps == Keeps::rows && p.cut.groups_in_rows());
  p.vector = p.vector && fits;
  const bool mean = reduction == KlReduction::dim || reduction == KlReduction::batchmean;
  p.kl_scale = mean ? static_cast<float>(1.0 / static_cast<double>(p.problem.rows)) : 1.0f;
  const Queue queue(mu);
  check(cuda::latent_backward(p, queue.stream()), "latent_backward");
}

// Writes the gradients that are not null.
void gradients(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl, const Tensor& mu,
               const Tensor& logvar, const std::optional<Tensor>& rng, const std::optional<Tensor>& noise,
               int64_t first_row, double logvar_min, double logvar_max, int64_t reduction, Tensor* grad_mu,
               Tensor* grad_logvar) {
  check_inputs(mu, logvar, noise);
  if (grad_z) check_like(mu, *grad_z, "grad_z");
  if (grad_kl)
    STD_TORCH_CHECK(grad_kl->is_cuda() && grad_kl->get_device_index() == mu.get_device_index() &&
                        grad_kl->scalar_type() == ScalarType::Float,
                    "grad_kl must be a float32 tensor on mu's CUDA device");
  STD_TORCH_CHECK(grad_z || grad_kl, "at least one of grad_z and grad_kl must be given");
  LatentBackward p;
  describe(p, mu, logvar_min, logvar_max);
  if (mu.numel() == 0 || !(grad_mu || grad_logvar)) return;
  // Only the gradient of log sigma^2 that comes through z meets the noise.
  const bool noisy = grad_z && grad_logvar;
  std::optional<Rng> pair;
  if (noisy) pair.emplace(mu, rng, noise);
  backward(p, grad_z, grad_kl, mu, logvar, pair ? &*pair : nullptr, noisy ? noise : std::nullopt, first_row,
           static_cast<KlReduction>(reduction), grad_mu, grad_logvar);
}

std::tuple<Tensor, Tensor> latent_backward(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl,
                                           const Tensor& mu, const Tensor& logvar, std::optional<Tensor> rng,
                                           std::optional<Tensor> noise, int64_t first_row, double logvar_min,
                                           double logvar_max, int64_t reduction, bool need_mu, bool need_logvar) {
  const int64_t none = 0;
  Tensor grad_mu = need_mu ? torch::stable::empty_like(mu) : torch::stable::new_empty(mu, Sizes(&none, 1));
  Tensor grad_logvar =
      need_logvar ? torch::stable::empty_like(logvar) : torch::stable::new_empty(logvar, Sizes(&none, 1));
  gradients(grad_z, grad_kl, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction,
            need_mu ? &grad_mu : nullptr, need_logvar ? &grad_logvar : nullptr);
  return {grad_mu, grad_logvar};
}

Tensor latent_backward_packed(std::optional<Tensor> grad_z, std::optional<Tensor> grad_kl, const Tensor& packed,
                              std::optional<Tensor> rng, std::optional<Tensor> noise, int64_t first_row,
                              double logvar_min, double logvar_max, int64_t reduction) {
  const Tensor grad = torch::stable::empty_like(packed);
  const auto [mu, logvar] = halves(packed);
  auto [grad_mu, grad_logvar] = halves(grad);
  gradients(grad_z, grad_kl, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction, &grad_mu,
            &grad_logvar);
  return grad;
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) {
  m.impl("latent_forward_cuda", TORCH_BOX(&betavae_fast::latent_forward));
  m.impl("latent_sample_cuda", TORCH_BOX(&betavae_fast::latent_sample));
  m.impl("latent_kl_cuda", TORCH_BOX(&betavae_fast::latent_kl));
  m.impl("latent_backward_cuda", TORCH_BOX(&betavae_fast::latent_backward));
  m.impl("latent_backward_packed_cuda", TORCH_BOX(&betavae_fast::latent_backward_packed));
}
