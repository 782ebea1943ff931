// The latent op on CUDA, free of torch: what to compute, and the launches.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

struct LatentArguments {
  DType dtype = DType::float32;
  Problem problem;
  Partition cut;
  Tiled mu, logvar, noise;       // noise.data is null where noise is drawn
  const int64_t* rng = nullptr;  // (seed, stream), read by the kernel
  int64_t first_element = 0;     // of the sequence: first_row * cols
  float logvar_min = 0, logvar_max = 0;
  bool clamps = false;  // the range is not all numbers
  bool vector = false;  // vectorize() holds for every operand, and noise that is drawn begins with a block
};

struct LatentForward : LatentArguments {
  Tiled z, kl;  // null data: not wanted; kl is that of each element
  Reduction reduction = Reduction::none;
  float* sums = nullptr;  // see sums_of(); null: no KL, or none
  double scale = 1;       // what the sums are multiplied by where they are final
};

struct LatentBackward : LatentArguments {
  Tiled grad_z, grad_kl;        // null data: zero
  bool grad_kl_vector = false;  // vectorize() holds for grad_kl; else it has a stride only between rows, or none
  float kl_scale = 1;           // from the gradient of the reduced KL to that of one element
  Tiled grad_mu, grad_logvar;   // null data: not needed
};

// Each returns null, or what went wrong.
const char* latent_forward(const LatentForward& arguments, void* stream);
const char* latent_backward(const LatentBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
