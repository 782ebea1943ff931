// The aggregated posterior's log-densities of the CUDA backend: launches on torch's current stream. No CUDA header is
// needed here.

#include <limits>
#include <utility>
#include <vector>

#include "../cuda/log_densities.h"
#include "cuda.h"
#include "log_densities.h"

namespace betavae_fast {
namespace {

using cuda::LogDensitiesBackward;
using cuda::LogDensitiesForward;
using cuda::LogDensitiesProblem;
using cuda::LogSums;
using cuda::Matrix;
using cuda::Splits;

// A matrix; a vector becomes a single column.
Matrix matrix(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.dim() == 2 ? x.stride(1) : 0}; }

// Float arrays that are cut out of one tensor and live as long as the object; the tensor's memory is freed in stream
// order. Each array begins at a multiple of 16 bytes, because all sizes are multiples of whole tiles.
class Workspace {
 public:
  void add(float*& array, int64_t size) { arrays_.push_back({&array, size}); }

  void allocate(const Tensor& like) {
    int64_t size = 0;
    for (const auto& [array, count] : arrays_) size += count;
    memory_ = torch::stable::new_empty(like, Sizes(&size, 1), ScalarType::Float);
    float* from = static_cast<float*>(memory_.data_ptr());
    for (const auto& [array, count] : arrays_) {
      *array = from;
      from += count;
    }
  }

 private:
  std::vector<std::pair<float**, int64_t>> arrays_;
  Tensor memory_;
};

void describe(LogDensitiesProblem& p, Workspace& workspace, const LogDensitiesCall& call) {
  p.dtype = dtype_of(call.z);
  p.rows = call.z.size(0);
  p.posteriors = call.mu.size(0);
  p.dims = call.z.size(1);
  p.first_row = call.first_row;
  p.row_stride = cuda::padded(p.rows);
  p.posterior_stride = cuda::padded(p.posteriors);
  p.weights = weights_of(p.posteriors, call.dataset_size, call.estimator);
  p.z_in = matrix(call.z);
  p.mu_in = matrix(call.mu);
  p.logvar_in = matrix(call.logvar);
  workspace.add(p.z, p.dims * p.row_stride);
  for (float** array : {&p.mu, &p.inverse_width, &p.peak}) workspace.add(*array, p.dims * p.posterior_stride);
  workspace.add(p.peak_sum, p.posterior_stride);
}

// Cuts the posteriors that each row streams into splits. The splits do not depend on the number of rows, so shards of a
// batch get the bits of the whole batch.
Splits split_posteriors(const LogDensitiesProblem& p, int64_t ctas_a_tile) {
  return Splits(p.posterior_stride / cuda::own * ctas_a_tile, p.posteriors, cuda::tuning);
}

struct LogDensitiesCuda : Cuda {
  // Refuses sizes for which the largest grid, with one CTA for each tile of rows, dim and split, would be too large.
  static void check(const LogDensitiesCall& call) {
    const int64_t tiles = cuda::tiles_of(call.mu.size(0), cuda::own),
                  most = std::numeric_limits<int32_t>::max() / Splits::max_splits;
    STD_TORCH_CHECK(tiles * (call.z.size(1) + 1) <= most, "the cuda backend does not take ", call.mu.numel(),
                    " elements at once");
  }

  static void forward(const LogDensitiesCall& call, Tensor& joint, Tensor& marginals) {
    LogDensitiesForward p;
    Workspace workspace;
    describe(p, workspace, call);
    p.of_joint.splits = split_posteriors(p, 1);
    if (p.dims > 0) p.of_marginals.splits = split_posteriors(p, p.dims);
    for (LogSums* sums : {&p.of_joint, &p.of_marginals}) {
      const int64_t size = sums->splits.count * p.row_stride * (sums == &p.of_joint ? 1 : p.dims);
      workspace.add(sums->maximum, size);
      workspace.add(sums->sum, size);
    }
    p.joint = static_cast<double*>(joint.data_ptr());
    p.marginals = static_cast<double*>(marginals.data_ptr());
    const Queue queue(call.z);
    workspace.allocate(call.z);
    betavae_fast::check(cuda::log_densities_forward(p, queue.stream()), "log_densities_forward");
  }

  static void backward(const LogDensitiesCall& call, const LogDensitiesResults& logs, LogDensitiesGradients& grads) {
    LogDensitiesBackward p;
    Workspace workspace;
    describe(p, workspace, call);
    p.grad_joint_in = matrix(logs.grad_joint);
    p.grad_marginals_in = matrix(logs.grad_marginals);
    p.joint_in = matrix(logs.joint);
    p.marginals_in = matrix(logs.marginals);
    for (float** array : {&p.grad_joint, &p.joint}) workspace.add(*array, p.row_stride);
    for (float** array : {&p.grad_marginals, &p.marginals}) workspace.add(*array, p.dims * p.row_stride);
    p.of_rows = split_posteriors(p, 1);
    p.of_posteriors = Splits(p.posterior_stride / cuda::own, p.rows, cuda::tuning);
    workspace.add(p.joint_mass, p.of_rows.count * p.row_stride);
    workspace.add(p.row_sums, p.of_rows.count * cuda::kept_sums * p.dims * p.row_stride);
    workspace.add(p.posterior_sums, p.of_posteriors.count * cuda::kept_sums * p.dims * p.posterior_stride);
    p.grad_z = grads.z.data_ptr();
    p.grad_mu = grads.mu.data_ptr();
    p.grad_logvar = grads.logvar.data_ptr();
    const Queue queue(call.z);
    workspace.allocate(call.z);
    betavae_fast::check(cuda::log_densities_backward(p, queue.stream()), "log_densities_backward");
  }
};

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) {
  betavae_fast::LogDensitiesOp<betavae_fast::LogDensitiesCuda>::implement(m);
}
