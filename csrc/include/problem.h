// What every kernel is told about its operands, on any device, free of torch.
#pragma once

#include <cstdint>

namespace betavae_fast {

enum class DType { float16, bfloat16, float32, float64 };

// Every operand is seen as rows x outer x inner elements; strides in elements, zero where it is expanded.
struct View {
  void* data = nullptr;
  int64_t row = 0, outer = 0, inner = 0;
};

struct Problem {
  int64_t rows = 0, outer = 1, inner = 1;
  int64_t cols() const { return outer * inner; }
};

// As betavae_fast/ops/schemas.py numbers them.
enum class Reduction : int64_t { none = 0, dim = 1, sample = 2, batchmean = 3, sum = 4 };
enum class Likelihood : int64_t { bernoulli = 0, gaussian = 1, laplace = 2 };

// How a target's pixels lie in memory; uint8 stands for 0 to 255, divided by 255; bits are eight pixels a byte, lowest
// first.
enum class Pixels { float16, bfloat16, float32, float64, uint8, boolean, bits };

}  // namespace betavae_fast
