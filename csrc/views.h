// Tensors of any strides seen as rows x outer x inner, the same way for every operand of a kernel. Shared by the files
// that register kernels with torch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "problem.h"

namespace betavae_fast {

using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

struct Operand {
  View* view;
  void* data;
  const int64_t* strides;
};

inline Operand operand(View& view, const Tensor& tensor) { return {&view, tensor.data_ptr(), tensor.strides().data()}; }

// Merges the trailing dims into outer x inner wherever all operands step evenly across them, and sets every view. False
// if that takes more than two: no memory format of torch does.
template <size_t n>
inline bool fit(Sizes sizes, const std::array<Operand, n>& operands, size_t count, Problem& problem) {
  std::array<int64_t, 2> size = {1, 1};  // inner, outer
  std::array<std::array<int64_t, n>, 2> stride{};
  size_t groups = 0;
  for (size_t dim = sizes.size(); dim-- > 1;) {
    if (sizes[dim] == 1) continue;
    bool merges = groups > 0;
    for (size_t i = 0; merges && i < count; ++i)
      merges = operands[i].strides[dim] == stride[groups - 1][i] * size[groups - 1];
    if (merges) {
      size[groups - 1] *= sizes[dim];
      continue;
    }
    if (groups == 2) return false;
    size[groups] = sizes[dim];
    for (size_t i = 0; i < count; ++i) stride[groups][i] = operands[i].strides[dim];
    ++groups;
  }
  problem.rows = sizes[0];
  problem.inner = size[0];
  problem.outer = size[1];
  for (size_t i = 0; i < count; ++i) {
    // The stride across a single column means nothing: 1 keeps it consecutive.
    const int64_t inner = size[0] == 1 ? 1 : stride[0][i];
    *operands[i].view = {operands[i].data, operands[i].strides[0], size[1] == 1 ? 0 : stride[1][i], inner};
  }
  return true;
}

// The dims of x as they lie in memory after the batch, slowest first: for an op that may visit them in any order.
inline std::vector<int64_t> in_memory_order(const Tensor& x) {
  std::vector<int64_t> order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin() + 1, order.end(), [&x](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  return order;
}

// Sizes or strides in the order given.
inline std::vector<int64_t> ordered(const int64_t* of_dims, const std::vector<int64_t>& order) {
  std::vector<int64_t> result;
  result.reserve(order.size());
  for (int64_t dim : order) result.push_back(of_dims[dim]);
  return result;
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

// Uninitialised, in the memory format of `like`.
inline Tensor empty_like(const Tensor& like, torch::headeronly::ScalarType dtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(like),         from(std::optional(dtype)), from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt),         from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace betavae_fast
