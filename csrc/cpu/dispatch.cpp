#include "dispatch.h"

#include <cstdlib>
#include <cstring>

namespace betavae_fast {

// The kernels that each instruction set's files define.
#define BVF_KERNELS(isa)                                  \
  namespace isa {                                         \
  extern const LatentKernels latent_kernels;              \
  extern const LikelihoodKernels likelihood_kernels;      \
  extern const LogDensitiesKernels log_densities_kernels; \
  }
BVF_KERNELS(baseline)
BVF_KERNELS(avx2)
BVF_KERNELS(avx512)
#undef BVF_KERNELS

namespace {

struct Capability {
  const char* name;
  bool supported;
  const LatentKernels* latent;
  const LikelihoodKernels* likelihood;
  const LogDensitiesKernels* log_densities;
};

const Capability& chosen() {
  static const Capability choice = [] {
    // The widest instruction set is last, because the last supported one is chosen.
    const Capability all[] = {
        {"baseline", true, &baseline::latent_kernels, &baseline::likelihood_kernels, &baseline::log_densities_kernels},
#if defined(__x86_64__)
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2::latent_kernels,
         &avx2::likelihood_kernels, &avx2::log_densities_kernels},
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
         &avx512::latent_kernels, &avx512::likelihood_kernels, &avx512::log_densities_kernels},
#endif
    };
    const char* wanted = std::getenv("BETAVAE_FAST_CPU_CAPABILITY");
    Capability best = all[0];
    for (const Capability& candidate : all) {
      if (!candidate.supported) continue;
      if (wanted != nullptr && std::strcmp(wanted, candidate.name) == 0) return candidate;
      best = candidate;
    }
    return best;
  }();
  return choice;
}

}  // namespace

const char* cpu_capability() { return chosen().name; }

const LatentKernels& latent_kernels() { return *chosen().latent; }

const LikelihoodKernels& likelihood_kernels() { return *chosen().likelihood; }

const LogDensitiesKernels& log_densities_kernels() { return *chosen().log_densities; }

}  // namespace betavae_fast

extern "C" __attribute__((visibility("default"))) const char* betavae_fast_cpu_capability() {
  return betavae_fast::cpu_capability();
}
