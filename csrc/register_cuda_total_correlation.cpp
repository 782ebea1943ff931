// The aggregated posterior of the CUDA backend: tensors in, launches on torch's current stream. No CUDA header is
// needed here.

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/total_correlation.h"
#include "mixture_tensors.h"
#include "register_cuda.h"

namespace betavae_fast {
namespace {

using cuda::Cut;
using cuda::LogSums;
using cuda::Matrix;
using cuda::Mixture;
using cuda::MixtureBackward;
using cuda::MixtureForward;

bool on_device_of(const Tensor& z, const Tensor& x) {
  return x.is_cuda() && x.get_device_index() == z.get_device_index();
}

void check_inputs(const Tensor& z, const Tensor& mu, const Tensor& logvar, int64_t first_row, int64_t dataset_size,
                  int64_t estimator) {
  STD_TORCH_CHECK(z.is_cuda() && on_device_of(z, mu) && on_device_of(z, logvar),
                  "z, mu and logvar must be tensors on one CUDA device");
  check_not_float64(z);
  check_mixture(z, mu, logvar, first_row, dataset_size, estimator);
  // A kernel's largest grid has a CTA for each tile of rows, dim and split.
  const int64_t tiles = cuda::tiles_of(mu.size(0), cuda::own),
                most = std::numeric_limits<int32_t>::max() / Cut::max_splits;
  STD_TORCH_CHECK(tiles * (z.size(1) + 1) <= most, "the cuda backend does not take ", mu.numel(), " elements at once");
}

// A matrix, or a vector as a column.
Matrix matrix(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.dim() == 2 ? x.stride(1) : 0}; }

// Float arrays that live as long as the object, cut out of one tensor; the tensor is freed in stream order. Each begins
// at a multiple of 16 bytes, as all sizes are those of whole tiles.
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

void describe(Mixture& p, Workspace& workspace, const Tensor& z, const Tensor& mu, const Tensor& logvar,
              int64_t first_row, int64_t dataset_size, int64_t estimator) {
  p.dtype = dtype_of(z);
  p.rows = z.size(0);
  p.posteriors = mu.size(0);
  p.dims = z.size(1);
  p.first_row = first_row;
  p.row_stride = cuda::padded(p.rows);
  p.posterior_stride = cuda::padded(p.posteriors);
  p.weights = weights_of(p.posteriors, dataset_size, estimator);
  p.z_in = matrix(z);
  p.mu_in = matrix(mu);
  p.logvar_in = matrix(logvar);
  workspace.add(p.z, p.dims * p.row_stride);
  for (float** array : {&p.mu, &p.inverse_width, &p.peak}) workspace.add(*array, p.dims * p.posterior_stride);
  workspace.add(p.peak_sum, p.posterior_stride);
}

// How a row's stream is cut does not depend on how many rows there are: shards of a batch get the bits of the whole.
Cut cut_posteriors(const Mixture& p, int64_t ctas_a_tile) {
  return Cut(p.posterior_stride / cuda::own * ctas_a_tile, p.posteriors, cuda::tuning);
}

std::tuple<Tensor, Tensor> total_correlation_forward(const Tensor& z, const Tensor& mu, const Tensor& logvar,
                                                     int64_t first_row, int64_t dataset_size, int64_t estimator) {
  check_inputs(z, mu, logvar, first_row, dataset_size, estimator);
  Tensor joint = torch::stable::new_empty(z, Sizes(z.sizes().data(), 1), ScalarType::Double);
  Tensor marginals = torch::stable::new_empty(z, Sizes(z.sizes().data(), 2), ScalarType::Double);
  if (z.size(0) == 0) return {joint, marginals};
  MixtureForward p;
  Workspace workspace;
  describe(p, workspace, z, mu, logvar, first_row, dataset_size, estimator);
  p.of_joint.cut = cut_posteriors(p, 1);
  if (p.dims > 0) p.of_marginals.cut = cut_posteriors(p, p.dims);
  for (LogSums* sums : {&p.of_joint, &p.of_marginals}) {
    const int64_t size = sums->cut.splits * p.row_stride * (sums == &p.of_joint ? 1 : p.dims);
    workspace.add(sums->maximum, size);
    workspace.add(sums->sum, size);
  }
  p.joint = static_cast<double*>(joint.data_ptr());
  p.marginals = static_cast<double*>(marginals.data_ptr());
  const Queue queue(z);
  workspace.allocate(z);
  check(cuda::total_correlation_forward(p, queue.stream()), "total_correlation_forward");
  return {joint, marginals};
}

std::tuple<Tensor, Tensor, Tensor> total_correlation_backward(const Tensor& grad_joint, const Tensor& grad_marginals,
                                                              const Tensor& z, const Tensor& mu, const Tensor& logvar,
                                                              const Tensor& joint, const Tensor& marginals,
                                                              int64_t first_row, int64_t dataset_size,
                                                              int64_t estimator) {
  check_inputs(z, mu, logvar, first_row, dataset_size, estimator);
  for (const Tensor* x : {&grad_joint, &joint})
    STD_TORCH_CHECK(
        on_device_of(z, *x) && x->dim() == 1 && x->size(0) == z.size(0) && x->scalar_type() == ScalarType::Double,
        "joint and its gradient must be float64 tensors of shape (b,) on z's CUDA device");
  for (const Tensor* x : {&grad_marginals, &marginals})
    STD_TORCH_CHECK(on_device_of(z, *x) && same_shape(*x, z) && x->scalar_type() == ScalarType::Double,
                    "marginals and their gradient must be float64 tensors of z's shape on its CUDA device");
  const auto result = [](const Tensor& x) { return torch::stable::new_empty(x, Sizes(x.sizes().data(), 2)); };
  Tensor grad_z = result(z), grad_mu = result(mu), grad_logvar = result(logvar);
  if (z.numel() == 0) {
    torch::stable::zero_(grad_mu);
    torch::stable::zero_(grad_logvar);
    return {grad_z, grad_mu, grad_logvar};
  }
  MixtureBackward p;
  Workspace workspace;
  describe(p, workspace, z, mu, logvar, first_row, dataset_size, estimator);
  p.grad_joint_in = matrix(grad_joint);
  p.grad_marginals_in = matrix(grad_marginals);
  p.joint_in = matrix(joint);
  p.marginals_in = matrix(marginals);
  for (float** array : {&p.grad_joint, &p.joint}) workspace.add(*array, p.row_stride);
  for (float** array : {&p.grad_marginals, &p.marginals}) workspace.add(*array, p.dims * p.row_stride);
  p.of_rows = cut_posteriors(p, 1);
  p.of_posteriors = Cut(p.posterior_stride / cuda::own, p.rows, cuda::tuning);
  workspace.add(p.joint_mass, p.of_rows.splits * p.row_stride);
  workspace.add(p.row_sums, p.of_rows.splits * 3 * p.dims * p.row_stride);
  workspace.add(p.posterior_sums, p.of_posteriors.splits * 3 * p.dims * p.posterior_stride);
  p.grad_z = grad_z.data_ptr();
  p.grad_mu = grad_mu.data_ptr();
  p.grad_logvar = grad_logvar.data_ptr();
  const Queue queue(z);
  workspace.allocate(z);
  check(cuda::total_correlation_backward(p, queue.stream()), "total_correlation_backward");
  return {grad_z, grad_mu, grad_logvar};
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CUDA, m) {
  m.impl("total_correlation_forward_cuda", TORCH_BOX(&betavae_fast::total_correlation_forward));
  m.impl("total_correlation_backward_cuda", TORCH_BOX(&betavae_fast::total_correlation_backward));
}
