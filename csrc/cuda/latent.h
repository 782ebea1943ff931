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
  bool clamps = false;           // the range is not all numbers
  bool vector = false;           // vectorize() holds for every operand, and noise that is drawn begins with a block
};

struct LatentForward : LatentArguments {
  Tiled z, kl;             // null data: not wanted; kl is that of each element
  KlReduction reduction = KlReduction::none;
  float* sums = nullptr;   // see latent_sums(); null: no KL, or none
  double scale = 1;        // what the sums are multiplied by where they are final
};

struct LatentBackward : LatentArguments {
  Tiled grad_z, grad_kl;        // null data: zero
  bool grad_kl_vector = false;  // vectorize() holds for grad_kl; else it has a stride only between rows, or none
  float kl_scale = 1;           // from the gradient of the reduced KL to that of one element
  Tiled grad_mu, grad_logvar;   // null data: not needed
};

inline int latent_group(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

inline Keeps latent_keeps(KlReduction reduction) {
  return reduction == KlReduction::dim ? Keeps::columns : reduction == KlReduction::sample ? Keeps::rows : Keeps::nothing;
}

// The forward kernel's sums: `outputs` of them, each of `count` terms. With one term each they are the result.
struct LatentSums {
  int64_t outputs, output_stride, count, count_stride;
};
inline LatentSums latent_sums(const Partition& cut, KlReduction reduction) {
  if (reduction == KlReduction::dim) return {cut.cols, 1, cut.items, cut.cols};
  if (reduction == KlReduction::sample) return {cut.rows, cut.panels, cut.panels, 1};
  return {1, cut.ctas(), cut.ctas(), 1};
}

// Each returns null, or what went wrong.
const char* latent_forward(const LatentForward& arguments, void* stream);
const char* latent_backward(const LatentBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
