// The likelihood op on CUDA, independent of torch: the arguments of the kernels, and their launches.
#pragma once

#include "partition.h"

namespace betavae_fast::cuda {

struct Target : Tiled {  // for Pixels::bits, strides count bits
  Pixels pixels = Pixels::float32;
};

struct LikelihoodArguments {
  DType dtype = DType::float32;
  Likelihood likelihood = Likelihood::bernoulli;
  float inverse_scale = 1, constant = 0;
  Problem problem;
  Partition partition;
  Tiled decoded;
  Target target;
  Tiled grad;                  // data is null if not wanted
  bool vector = false;         // vectorize() holds for every operand but the target
  bool target_vector = false;  // vectorize() or vectorize_bits() holds for the target
};

struct LikelihoodForward : LikelihoodArguments {
  Tiled nll;             // each element's NLL; data is null if sums are wanted
  float grad_scale = 1;  // factor from the gradient of one element's NLL to the gradient of the reduced NLL
  Reduction reduction = Reduction::none;
  float* partials = nullptr;  // see partials_of()
  double scale = 1;           // factor of the partial sums that are the result; otherwise 1
};

struct LikelihoodBackward : LikelihoodArguments {
  Tiled grad_nll;
  // The result of vectorize() for grad_nll. If it is false and `vector` is true, grad_nll does not vary within rows.
  bool grad_nll_vector = false;
  float nll_scale = 1;      // factor from the gradient of the reduced NLL to the gradient of one element's NLL
  bool unless_one = false;  // leaves grad unchanged if grad_nll, a single number, is 1
};

// Each function returns null, or an error message.
const char* likelihood_forward(const LikelihoodForward& arguments, void* stream);
const char* likelihood_backward(const LikelihoodBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
