// The CPU as a device of the operators.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "huge_pages.h"
#include "tensors.h"

namespace betavae_fast {

struct Cpu {
  static constexpr const char* name = "CPU";
  static constexpr const char* backend = "cpp";
  static bool has(const Tensor& x) { return x.is_cpu(); }
  static bool has_beside(const Tensor&, const Tensor& x) { return x.is_cpu(); }
  static void check_dtype(const Tensor&) {}
  static Tensor result_like(const Tensor& x) { return with_huge_pages(torch::stable::empty_like(x)); }
};

}  // namespace betavae_fast
