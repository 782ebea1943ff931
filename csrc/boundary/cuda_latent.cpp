// The latent op of the CUDA backend: launches on torch's current stream. No CUDA header is needed here.

#include <initializer_list>
#include <limits>

#include "../cuda/latent.h"
#include "cuda.h"
#include "latent.h"

namespace betavae_fast {
namespace {

using cuda::LatentBackward;
using cuda::LatentForward;
using cuda::Partition;
using cuda::Tiled;

Tiled tiled(const View& view) {
  Tiled result;
  static_cast<View&>(result) = view;
  return result;
}

// The (seed, stream) pair as a contiguous tensor. It must outlive the launch call; its memory is freed in stream order.
std::optional<Tensor> pair_of(const LatentCall& call) { return contiguous(call.rng); }

// Sets all arguments except the operands that only one direction has. `pair` holds the seed and stream of drawn noise,
// or is null.
template <class Latent>
Latent described(const LatentCall& call, const LatentViews& views, const std::optional<Tensor>& pair,
                 Reduction reduction) {
  Latent p;
  p.dtype = dtype_of(call.mu);
  p.problem = views.problem;
  p.mu = tiled(views.mu);
  p.logvar = tiled(views.logvar);
  p.noise = tiled(views.noise);
  p.settings = call.settings.to<float>();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  p.clamps = call.settings.logvar_min > -infinity || call.settings.logvar_max < infinity;
  p.partition = Partition(p.problem.rows, p.problem.cols(), cuda::group_of(p.dtype), reduction, cuda::tuning);
  check_grid(p.partition);
  p.rng = pair ? static_cast<const int64_t*>(pair->data_ptr()) : nullptr;
  p.first_element = call.first_row * p.problem.cols();
  p.vector = !p.rng || p.first_element % 4 == 0;
  return p;
}

template <class Latent>
void vectorize_all(Latent& p, int64_t bytes, std::initializer_list<Tiled*> operands) {
  for (Tiled* operand : operands) p.vector = vectorize(p.problem, p.partition, bytes, *operand) && p.vector;
}

// The elements that share one value of the KL's gradient, by its strides: of an expanded gradient, too, each value is
// read once.
Reduction reduction_of(const View& grad_kl) {
  if (!grad_kl.data) return Reduction::absent;
  const bool along_cols = grad_kl.outer != 0 || grad_kl.inner != 0;
  if (grad_kl.row == 0) return along_cols ? Reduction::dim : Reduction::sum;
  return along_cols ? Reduction::none : Reduction::sample;
}

struct LatentCuda : Cuda {
  static void forward(const LatentCall& call, const LatentViews& views, Tensor* kl) {
    const std::optional<Tensor> pair = pair_of(call);
    auto p = described<LatentForward>(call, views, pair, call.reduction);
    p.z = tiled(views.z);
    p.kl = tiled(views.kl);
    p.reduction = call.reduction;
    vectorize_all(p, static_cast<int64_t>(call.mu.element_size()), {&p.mu, &p.logvar, &p.noise, &p.z});
    vectorize_all(p, sizeof(float), {&p.kl});
    std::optional<PartialSums> partials;
    if (kl) {
      partials.emplace(*kl, p.partition, call.reduction, p.problem.rows);
      p.partials = partials->data();
      p.scale = partials->scale();
    }
    const Queue queue(call.mu);
    check(cuda::latent_forward(p, queue.stream()), "latent_forward");
    if (partials) partials->finish(queue);
  }

  static void backward(const LatentCall& call, const LatentViews& views) {
    const std::optional<Tensor> pair = pair_of(call);
    const Reduction reduction = reduction_of(views.grad_kl);
    auto p = described<LatentBackward>(call, views, pair, reduction);
    p.grad_z = tiled(views.grad_z);
    p.grad_kl = tiled(views.grad_kl);
    p.grad_mu = tiled(views.grad_mu);
    p.grad_logvar = tiled(views.grad_logvar);
    vectorize_all(p, static_cast<int64_t>(call.mu.element_size()),
                  {&p.mu, &p.logvar, &p.noise, &p.grad_z, &p.grad_mu, &p.grad_logvar});
    p.grad_kl_vector = p.grad_kl.row != 0 && vectorize(p.problem, p.partition, sizeof(float), p.grad_kl);
    // The 16-byte path takes three forms of grad_kl: without a row stride; one value per element, in groups; or one
    // value per row, if no group spans two rows.
    const bool fits = !p.grad_kl.data || p.grad_kl.row == 0 || p.grad_kl_vector ||
                      (reduction == Reduction::sample && p.partition.groups_in_rows());
    p.vector = p.vector && fits;
    if (is_mean(call.reduction)) p.kl_scale = static_cast<float>(1.0 / static_cast<double>(p.problem.rows));
    const Queue queue(call.mu);
    check(cuda::latent_backward(p, queue.stream()), "latent_backward");
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) { betavae_fast::LatentOp<betavae_fast::LatentCuda>::implement(m); }
