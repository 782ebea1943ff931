// A CUDA device of the operators, the stream for its launches, and sums in two steps. No CUDA header is needed here.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <limits>
#include <optional>

#include "../cuda/reduce.h"
#include "../cuda/reduction.h"
#include "tensors.h"

namespace betavae_fast {

// Makes a tensor's device current for as long as the object lives, and holds the stream on which launches are queued.
class Queue {
 public:
  explicit Queue(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

inline void check(const char* error, const char* what) {
  STD_TORCH_CHECK(error == nullptr, what, ": CUDA error: ", error);
}

struct Cuda {
  static constexpr const char* name = "CUDA";
  static bool has(const Tensor& x) { return x.is_cuda(); }
  static bool has_beside(const Tensor& like, const Tensor& x) {
    return x.is_cuda() && x.get_device_index() == like.get_device_index();
  }
  static void check_dtype(const Tensor& x) {
    STD_TORCH_CHECK(x.scalar_type() != ScalarType::Double,
                    "the cuda backend computes in float32 and takes float16, bfloat16 and float32, got float64: use "
                    "backend=\"reference\" or, on the CPU, backend=\"cpp\"");
  }
  static Tensor result_like(const Tensor& x) { return torch::stable::empty_like(x); }
};

inline void check_grid(const cuda::Partition& cut) {
  STD_TORCH_CHECK(cut.ctas() <= std::numeric_limits<int32_t>::max(), "the cuda backend does not take ", cut.elements,
                  " elements at once");
}

// The destination of a forward kernel's sums: `result` itself if each sum has only one term, otherwise partial sums
// that finish() adds up.
class SumsInto {
 public:
  SumsInto(Tensor& result, const cuda::Partition& cut, Reduction reduction, int64_t rows)
      : sums_(cuda::sums_of(cut, reduction)), result_(static_cast<float*>(result.data_ptr())) {
    if (is_mean(reduction)) scale_ = 1.0 / static_cast<double>(rows);
    const int64_t size = sums_.outputs * sums_.count;
    if (sums_.count > 1) partials_ = torch::stable::new_empty(result, Sizes(&size, 1));
  }

  // The memory to which the kernel writes, and the factor that it applies.
  float* data() const { return partials_ ? static_cast<float*>(partials_->data_ptr()) : result_; }
  double scale() const { return partials_ ? 1.0 : scale_; }

  void finish(const Queue& queue) const {
    if (!partials_) return;
    const cuda::Partials partials = {data(), sums_.outputs, sums_.output_stride, sums_.count, sums_.count_stride};
    check(cuda::reduce_partials(partials, scale_, result_, queue.stream()), "reduce_partials");
  }

 private:
  cuda::Sums sums_;
  float* result_;
  double scale_ = 1.0;
  std::optional<Tensor> partials_;
};

}  // namespace betavae_fast
