// The operators' tensors: their dtypes and shapes, and one common view of all operands of a kernel, whatever their
// strides.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "../include/problem.h"

namespace betavae_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Half: return DType::float16;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Float: return DType::float32;
    case ScalarType::Double: return DType::float64;
    default: STD_TORCH_CHECK(false, "expected a floating-point tensor, got ", toString(x.scalar_type()));
  }
}

// The dtype of a KL or NLL of x.
inline ScalarType sum_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::string shape(const Tensor& x) {
  std::string text = "(";
  for (int64_t d = 0; d < x.dim(); ++d) text += (d ? ", " : "") + std::to_string(x.size(d));
  return text + ")";
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

// An uninitialised tensor in the memory format of `like`.
inline Tensor empty_like(const Tensor& like, ScalarType dtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(like),         from(std::optional(dtype)), from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt),         from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// An empty tensor that stands for a gradient that is not needed.
inline Tensor no_elements(const Tensor& like) {
  const int64_t none = 0;
  return torch::stable::new_empty(like, Sizes(&none, 1));
}

// An uninitialised KL or NLL with the shape of x after the reduction.
inline Tensor empty_reduced(const Tensor& x, Reduction reduction) {
  const auto leading = [&x](int64_t first, int64_t dims) {
    return torch::stable::new_empty(x, Sizes(x.sizes().data() + first, dims), sum_dtype(x));
  };
  switch (reduction) {
    case Reduction::none: return empty_like(x, sum_dtype(x));
    case Reduction::dim: return leading(1, x.dim() - 1);
    case Reduction::sample: return leading(0, 1);
    case Reduction::batchmean:
    case Reduction::sum: return leading(0, 0);
  }
  STD_TORCH_CHECK(false, "unknown reduction ", static_cast<int64_t>(reduction));
}

inline bool is_mean(Reduction reduction) { return reduction == Reduction::dim || reduction == Reduction::batchmean; }

// Sets the reduction of an empty tensor: a sum over no elements is 0, and a mean over no rows is NaN.
inline void fill_empty(Tensor& reduced, Reduction reduction, int64_t rows) {
  const bool nan = is_mean(reduction) && rows == 0;
  torch::stable::fill_(reduced, nan ? std::numeric_limits<double>::quiet_NaN() : 0.0);
}

// The strides with which the gradient of a reduced KL or NLL is broadcast to x's shape.
inline std::vector<int64_t> broadcast_strides(const Tensor& x, const Tensor& grad, Reduction reduction,
                                              const char* name) {
  std::vector<int64_t> strides(static_cast<size_t>(x.dim()), 0);
  const bool batch = reduction == Reduction::none || reduction == Reduction::sample;
  const bool dims = reduction == Reduction::none || reduction == Reduction::dim;
  const int64_t expected_dims = (batch ? 1 : 0) + (dims ? x.dim() - 1 : 0);
  STD_TORCH_CHECK(grad.dim() == expected_dims, name, " must have ", expected_dims, " dimensions, got ", grad.dim());
  int64_t from = 0;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (d == 0 ? !batch : !dims) continue;
    STD_TORCH_CHECK(grad.size(from) == x.size(d), name, " must have the shape of what was reduced, got ", shape(grad));
    strides[static_cast<size_t>(d)] = grad.stride(from++);
  }
  return strides;
}

// The dims of x with the batch first and the others in memory order, slowest first; for an op that may take its
// elements in any order.
inline std::vector<int64_t> in_memory_order(const Tensor& x) {
  std::vector<int64_t> order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin() + 1, order.end(), [&x](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  return order;
}

// Up to n operands of a kernel. All have one shape, and are viewed as rows x outer x inner in the same way.
template <size_t n>
class Operands {
 public:
  // order: the order of the dims, with the batch first; if empty, the written order.
  explicit Operands(const Tensor& like, std::vector<int64_t> order = {})
      : order_(std::move(order)), dims_(static_cast<size_t>(like.dim())) {
    numbers_.reserve((n + 1) * dims_);
    append(like.sizes().data());
  }

  void add(View& view, const Tensor& x) { add(view, x, x.strides().data()); }
  void add(View& view, const std::optional<Tensor>& x) {
    if (x) add(view, *x);
  }
  void add(View& view, const Tensor* x) {
    if (x) add(view, *x);
  }
  void add(View& view, const Tensor& x, const int64_t* strides) {
    view.data = x.data_ptr();
    views_[count_++] = &view;
    append(strides);
  }

  // Merges the trailing dims into outer x inner where all operands step evenly across them, and sets every view.
  // Returns false if more than two dims remain, which happens with no memory format of torch.
  bool fit(Problem& problem) const {
    const int64_t *sizes = numbers_.data(), *strides = sizes + dims_;
    std::array<int64_t, 2> size = {1, 1};  // inner, outer
    std::array<std::array<int64_t, n>, 2> stride{};
    size_t groups = 0;
    for (size_t dim = dims_; dim-- > 1;) {
      if (sizes[dim] == 1) continue;
      bool merges = groups > 0;
      for (size_t i = 0; merges && i < count_; ++i)
        merges = strides[i * dims_ + dim] == stride[groups - 1][i] * size[groups - 1];
      if (merges) {
        size[groups - 1] *= sizes[dim];
        continue;
      }
      if (groups == 2) return false;
      size[groups] = sizes[dim];
      for (size_t i = 0; i < count_; ++i) stride[groups][i] = strides[i * dims_ + dim];
      ++groups;
    }
    problem.rows = sizes[0];
    problem.inner = size[0];
    problem.outer = size[1];
    for (size_t i = 0; i < count_; ++i) {
      View& view = *views_[i];
      view.row = strides[i * dims_];
      view.outer = size[1] == 1 ? 0 : stride[1][i];
      view.inner = size[0] == 1 ? 1 : stride[0][i];  // the stride of a single column has no meaning
    }
    return true;
  }

 private:
  void append(const int64_t* of_dims) {
    for (size_t dim = 0; dim < dims_; ++dim) numbers_.push_back(of_dims[order_.empty() ? dim : order_[dim]]);
  }

  std::vector<int64_t> order_;
  size_t dims_;
  std::vector<int64_t> numbers_;  // the sizes, then each operand's strides
  std::array<View*, n> views_{};
  size_t count_ = 0;
};

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

// A contiguous tensor that a kernel writes instead of a result whose memory format it does not support.
inline std::optional<Tensor> contiguous_like(const Tensor* result) {
  return result ? std::optional<Tensor>(torch::stable::new_empty(*result, result->sizes())) : std::nullopt;
}
inline Tensor* address(std::optional<Tensor>& x) { return x ? &*x : nullptr; }
inline void copy_back(Tensor* result, const std::optional<Tensor>& from) {
  if (result) torch::stable::copy_(*result, *from);
}

}  // namespace betavae_fast
