// The latent op's tensors, whatever the device: dtypes, shapes and the KL's own. Shared by the files that register
// kernels.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <vector>

#include "views.h"

namespace betavae_fast {

using torch::headeronly::ScalarType;

inline DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Half: return DType::float16;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Float: return DType::float32;
    case ScalarType::Double: return DType::float64;
    default: STD_TORCH_CHECK(false, "expected a floating-point tensor, got ", toString(x.scalar_type()));
  }
}

inline ScalarType kl_dtype(const Tensor& mu) {
  return mu.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

inline Tensor empty_kl(const Tensor& mu, KlReduction reduction) {
  switch (reduction) {
    case KlReduction::none: return empty_like(mu, kl_dtype(mu));
    case KlReduction::dim:
      return torch::stable::new_empty(mu, Sizes(mu.sizes().data() + 1, mu.dim() - 1), kl_dtype(mu));
    case KlReduction::sample: return torch::stable::new_empty(mu, Sizes(mu.sizes().data(), 1), kl_dtype(mu));
    case KlReduction::batchmean:
    case KlReduction::sum: return torch::stable::new_empty(mu, Sizes(), kl_dtype(mu));
  }
  STD_TORCH_CHECK(false, "unknown reduction ", static_cast<int64_t>(reduction));
}

struct Halves {
  Tensor mu, logvar;
};

// Views: mu is the first half of dimension 1, logvar the second.
inline Halves halves(Tensor packed) {
  STD_TORCH_CHECK(packed.dim() > 1 && packed.size(1) % 2 == 0, "packed must hold mu and logvar along dimension 1");
  const int64_t half = packed.size(1) / 2;
  return {torch::stable::narrow(packed, 1, 0, half), torch::stable::narrow(packed, 1, half, half)};
}

// What the operators take as numbers, refused where it is none of them.
inline KlReduction nll_reduction(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= 4 && number != 1, "reduction must be 0, 2, 3 or 4, got ", number);
  return static_cast<KlReduction>(number);
}

inline Likelihood likelihood_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= 2, "likelihood must be 0, 1 or 2, got ", number);
  return static_cast<Likelihood>(number);
}

// The KL of no elements: sums are 0, means over no rows are NaN.
inline void fill_empty(Tensor& kl, KlReduction reduction, int64_t rows) {
  const bool mean = reduction == KlReduction::dim || reduction == KlReduction::batchmean;
  torch::stable::fill_(kl, mean && rows == 0 ? std::numeric_limits<double>::quiet_NaN() : 0.0);
}

// The strides with which the gradient of a reduced KL spreads over mu's shape.
inline std::vector<int64_t> spread_strides(const Tensor& mu, const Tensor& grad_kl, KlReduction reduction) {
  std::vector<int64_t> strides(static_cast<size_t>(mu.dim()), 0);
  const bool batch = reduction == KlReduction::none || reduction == KlReduction::sample;
  const bool dims = reduction == KlReduction::none || reduction == KlReduction::dim;
  const int64_t expected_dims = (batch ? 1 : 0) + (dims ? mu.dim() - 1 : 0);
  STD_TORCH_CHECK(grad_kl.dim() == expected_dims, "grad_kl must have ", expected_dims, " dimensions, got ",
                  grad_kl.dim());
  int64_t from = 0;
  for (int64_t d = 0; d < mu.dim(); ++d) {
    if (d == 0 ? !batch : !dims) continue;
    STD_TORCH_CHECK(grad_kl.size(from) == mu.size(d), "grad_kl does not have the shape of the reduced KL");
    strides[static_cast<size_t>(d)] = grad_kl.stride(from++);
  }
  return strides;
}

}  // namespace betavae_fast
