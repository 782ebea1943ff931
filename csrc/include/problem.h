// The description of a kernel's operands, for every device and independent of torch.
#pragma once

#include <cstdint>

namespace betavae_fast {

enum class DType { float16, bfloat16, float32, float64 };

// An operand as rows x outer x inner elements. Strides count elements, and are 0 along expanded dimensions.
struct View {
  void* data = nullptr;
  int64_t row = 0, outer = 0, inner = 0;
};

struct Problem {
  int64_t rows = 0, outer = 1, inner = 1;
  int64_t cols() const { return outer * inner; }
};

// The elements that one KL, one NLL or one gradient of it belongs to. The numbers are those of
// betavae_fast/ops/reductions.py; `absent` says that there is no KL, and is never an operator's argument.
enum class Reduction : int64_t { absent = -1, none = 0, dim = 1, sample = 2, batchmean = 3, sum = 4 };
enum class Likelihood : int64_t { bernoulli = 0, gaussian = 1, laplace = 2 };

// The storage of a target's pixels. uint8 values from 0 to 255 are divided by 255. Bits are packed eight to a byte,
// lowest bit first.
enum class Pixels { float16, bfloat16, float32, float64, uint8, boolean, bits };

}  // namespace betavae_fast
