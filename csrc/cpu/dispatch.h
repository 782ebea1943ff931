// The choice of the instruction set, made once per process.
#pragma once

#include "convolution.h"
#include "latent.h"
#include "likelihood.h"
#include "log_densities.h"

namespace betavae_fast {

// The chosen instruction set: "baseline", "avx2", "avx512", "avx512_bf16" or "amx". It is the widest that this CPU has,
// or the one that the variable BETAVAE_FAST_CPU_CAPABILITY names if this CPU has it. The variable is read once.
const char* cpu_capability();

const LatentKernels& latent_kernels();
const LikelihoodKernels& likelihood_kernels();
const LogDensitiesKernels& log_densities_kernels();
const ConvolutionKernels* convolution_kernels();  // null without instructions for bfloat16

}  // namespace betavae_fast
