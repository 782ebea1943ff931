// Tells whether kernels of this library can run. A library that loads and a GPU that is found are not enough: the
// driver may be too old for the CUDA runtime that is linked in, or no code may be compiled for the GPU's architecture.

namespace betavae_fast::cuda {
namespace {

__global__ void probe() {}

}  // namespace
}  // namespace betavae_fast::cuda

// Returns null, or the reason why a kernel cannot run on the current device. Nothing is launched: to query a kernel's
// attributes loads the kernel.
extern "C" __attribute__((visibility("default"))) const char* betavae_fast_cuda_error() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, betavae_fast::cuda::probe);
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // clears the error, which the next launch would report as its own
  return cudaGetErrorString(error);
}
