// The latent op of the cpp backend: runs the kernels and adds up their partial sums.

#include <memory>

#include "../cpu/dispatch.h"
#include "cpu.h"
#include "latent.h"

namespace betavae_fast {
namespace {

template <class Latent>
Latent described(const LatentCall& call, const LatentViews& views) {
  Latent p;
  static_cast<Problem&>(p) = views.problem;
  p.dtype = dtype_of(call.mu);
  p.mu = views.mu;
  p.logvar = views.logvar;
  p.noise = views.noise;
  if (call.rng) {
    const auto* pair = static_cast<const int64_t*>(call.rng->data_ptr());
    p.key = {static_cast<uint64_t>(pair[0]), static_cast<uint64_t>(pair[call.rng->stride(0)])};
  }
  p.first_row = call.first_row;
  p.settings = call.settings;
  return p;
}

// A unit has a few thousand elements, and a single one is not worth a second thread, so each thread gets at least two.
template <class Latent, class Kernel>
void run(const Latent& p, bool sums_rows, Kernel kernel) {
  const LatentPartition partition(p.rows, p.cols());
  const LatentWork work(p, partition, sums_rows);
  torch::stable::parallel_for(0, work.units(), 2,
                              [&](int64_t first, int64_t last) { kernel(p, partition, work, first, last); });
}

template <class Real>
void sum_partials(const LatentForward& p, Real* out) {
  const LatentPartition partition(p.rows, p.cols());
  if (p.reduction == Reduction::sample) {
    for (int64_t row = 0; row < p.rows; ++row) {
      double sum = 0;
      for (int64_t panel = 0; panel < partition.panels; ++panel) sum += p.partials[row * partition.panels + panel];
      out[row] = static_cast<Real>(sum);
    }
    return;
  }
  if (p.reduction == Reduction::dim) {
    const int64_t cols = p.cols();
    torch::stable::parallel_for(0, cols, 4096, [&](int64_t first, int64_t last) {
      std::unique_ptr<double[]> sum(new double[static_cast<size_t>(last - first)]());
      for (int64_t item = 0; item < partition.row_items; ++item)
        for (int64_t c = first; c < last; ++c) sum[c - first] += p.partials[item * cols + c];
      for (int64_t c = first; c < last; ++c) out[c] = static_cast<Real>(sum[c - first] / static_cast<double>(p.rows));
    });
    return;
  }
  double sum = 0;
  for (int64_t item = 0; item < partition.items(); ++item) sum += p.partials[item];
  *out = static_cast<Real>(p.reduction == Reduction::batchmean ? sum / static_cast<double>(p.rows) : sum);
}

struct LatentCpu : Cpu {
  static void forward(const LatentCall& call, const LatentViews& views, Tensor* kl) {
    auto p = described<LatentForward>(call, views);
    p.z = views.z;
    p.kl = views.kl;
    p.reduction = call.reduction;
    std::unique_ptr<double[]> partials;
    if (kl) {
      const int64_t size = LatentPartition(p.rows, p.cols()).partials(p.reduction, p.rows, p.cols());
      partials.reset(new double[static_cast<size_t>(size)]);
      p.partials = partials.get();
    }
    run(p, kl && p.reduction != Reduction::sample, latent_kernels().forward);
    if (!kl) return;
    if (kl->scalar_type() == ScalarType::Double)
      sum_partials(p, static_cast<double*>(kl->data_ptr()));
    else
      sum_partials(p, static_cast<float*>(kl->data_ptr()));
  }

  static void backward(const LatentCall& call, const LatentViews& views) {
    auto p = described<LatentBackward>(call, views);
    p.grad_z = views.grad_z;
    p.grad_kl = views.grad_kl;
    p.grad_mu = views.grad_mu;
    p.grad_logvar = views.grad_logvar;
    if (is_mean(call.reduction)) p.kl_scale = 1.0 / static_cast<double>(p.rows);
    run(p, false, latent_kernels().backward);
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) { betavae_fast::LatentOp<betavae_fast::LatentCpu>::implement(m); }
