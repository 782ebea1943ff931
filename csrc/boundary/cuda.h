// A CUDA device of the operators, the stream for its launches, and sums in two steps. No CUDA header is needed here.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <limits>
#include <optional>

#include "../cuda/reduce.h"
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
  static constexpr const char* backend = "cuda";
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

inline void check_grid(const cuda::Partition& partition) {
  STD_TORCH_CHECK(partition.ctas() <= std::numeric_limits<int32_t>::max(), "the cuda backend does not take ",
                  partition.elements, " elements at once");
}

// The destination of a forward kernel's partial sums: `result` itself if each sum has only one, otherwise memory whose
// sums finish() writes to `result`.
class PartialSums {
 public:
  PartialSums(Tensor& result, const cuda::Partition& partition, Reduction reduction, int64_t rows)
      : partials_(cuda::partials_of(partition, reduction)), result_(static_cast<float*>(result.data_ptr())) {
    if (is_mean(reduction)) scale_ = 1.0 / static_cast<double>(rows);
    const int64_t size = partials_.outputs * partials_.count;
    if (partials_.count > 1) memory_ = torch::stable::new_empty(result, Sizes(&size, 1));
    partials_.data = data();
  }

  // The memory to which the kernel writes, and the factor that it applies.
  float* data() const { return memory_ ? static_cast<float*>(memory_->data_ptr()) : result_; }
  double scale() const { return memory_ ? 1.0 : scale_; }

  void finish(const Queue& queue) const {
    if (memory_) check(cuda::reduce_partials(partials_, scale_, result_, queue.stream()), "reduce_partials");
  }

 private:
  cuda::Partials partials_;
  float* result_;
  double scale_ = 1.0;
  std::optional<Tensor> memory_;
};

}  // namespace betavae_fast
