// Host code that every launch needs: the choice of the element type, and the error of a launch.
#pragma once

#include "../include/problem.h"
#include "../include/storage.h"

namespace betavae_fast::cuda {

// Calls visit() with an element of the dtype; visit() returns an error message or null.
template <class Visit>
const char* with_element(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::float16: return visit(Half{});
    case DType::bfloat16: return visit(BFloat16{});
    case DType::float32: return visit(float{});
    case DType::float64: break;
  }
  return "float64 is not compiled for CUDA";
}

inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace betavae_fast::cuda
