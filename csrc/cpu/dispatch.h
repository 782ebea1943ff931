// Which instruction set runs.
#pragma once

#include "latent.h"
#include "likelihood.h"
#include "total_correlation.h"

namespace betavae_fast {

// "baseline", "avx2" or "avx512": the widest this CPU has, or what BETAVAE_FAST_CPU_CAPABILITY asks for if it has that.
// Read once.
const char* cpu_capability();

const LatentKernels& latent_kernels();
const LikelihoodKernels& likelihood_kernels();
const TotalCorrelationKernels& total_correlation_kernels();

}  // namespace betavae_fast
