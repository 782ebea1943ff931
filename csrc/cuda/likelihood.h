// The likelihood op on CUDA, free of torch: what to compute, and the launches.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

struct Target : Tiled {  // of Pixels::bits: strides count bits
  Pixels pixels = Pixels::float32;
};

struct LikelihoodArguments {
  DType dtype = DType::float32;
  Likelihood likelihood = Likelihood::bernoulli;
  float inverse_scale = 1, constant = 0;
  Problem problem;
  Partition cut;
  Tiled decoded;
  Target target;
  Tiled grad;                  // null data: not wanted
  bool vector = false;         // vectorize() holds for every operand but the target
  bool target_vector = false;  // and for it: its groups lie as decoded's do
};

struct LikelihoodForward : LikelihoodArguments {
  Tiled nll;             // of each element; null data: sums are wanted
  float grad_scale = 1;  // from the gradient of an element's NLL to that of the reduced one
  Reduction reduction = Reduction::none;
  float* sums = nullptr;  // see sums_of()
  double scale = 1;       // what the sums are multiplied by where they are final
};

struct LikelihoodBackward : LikelihoodArguments {
  Tiled grad_nll;
  bool grad_nll_vector = false;  // vectorize() holds for grad_nll; else it has a stride only between rows, or none
  float nll_scale = 1;           // from the gradient of the reduced NLL to that of one element
  bool unless_one = false;       // grad_nll is one number; where it is 1, grad is right as it is
};

// Each returns null, or what went wrong.
const char* likelihood_forward(const LikelihoodForward& arguments, void* stream);
const char* likelihood_backward(const LikelihoodBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
