// Tells whether kernels of this library can run. Loading it does not, nor does the sight of a GPU: the driver may be
// too old for the CUDA runtime linked in, or nothing be compiled for the GPU's architecture.

namespace betavae_fast::cuda {
namespace {

__global__ void probe() {}

}  // namespace
}  // namespace betavae_fast::cuda

// Returns null, or why a kernel cannot run on the current device. Nothing is launched: a question for a kernel's
// attributes loads it.
extern "C" __attribute__((visibility("default"))) const char* betavae_fast_cuda_error() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, betavae_fast::cuda::probe);
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // else the next launch would report it as its own
  return cudaGetErrorString(error);
}
