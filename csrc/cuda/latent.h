// The latent op on CUDA, independent of torch: the arguments of the kernels, and their launches.
#pragma once

#include "../include/latent.h"
#include "partition.h"

namespace betavae_fast::cuda {

struct LatentArguments {
  DType dtype = DType::float32;
  Problem problem;
  Partition partition;
  Tiled mu, logvar, noise;       // noise.data is null if the noise is drawn
  const int64_t* rng = nullptr;  // (seed, stream) on the device, read by the kernel
  int64_t first_element = 0;     // number of the first element in the noise sequence: first_row * cols
  LatentSettings<float> settings{};
  bool clamps = false;  // the range leaves out some numbers
  bool vector = false;  // vectorize() holds for every operand, and drawn noise begins at a Philox block
};

struct LatentForward : LatentArguments {
  Tiled z, kl;  // data is null if not wanted; kl takes each element's KL
  Reduction reduction = Reduction::none;
  float* partials = nullptr;  // see partials_of(); null if no KL is wanted or each KL goes to `kl` (reduction `none`)
  double scale = 1;           // factor of the partial sums that are the result; otherwise 1
};

struct LatentBackward : LatentArguments {
  Tiled grad_z, grad_kl;  // data is null if the gradient is zero
  // The result of vectorize() for grad_kl. If it is false and `vector` is true, grad_kl varies only between rows or
  // only between columns.
  bool grad_kl_vector = false;
  float kl_scale = 1;          // factor from the gradient of the reduced KL to the gradient of one element's KL
  Tiled grad_mu, grad_logvar;  // data is null if not needed
};

// Each function returns null, or an error message.
const char* latent_forward(const LatentForward& arguments, void* stream);
const char* latent_backward(const LatentBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
