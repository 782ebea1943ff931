#include "dispatch.h"

#if !defined(__linux__)
#undef BVF_AMX  // how to ask for the tile registers is known for Linux only
#endif
#if defined(BVF_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
namespace avx512_bf16 {
extern const ConvolutionKernels convolution_kernels;
}
namespace amx {
extern const ConvolutionKernels convolution_kernels;
}

namespace {

struct Capability {
  const char* name;
  bool supported;
  const LatentKernels* latent;
  const LikelihoodKernels* likelihood;
  const LogDensitiesKernels* log_densities;
  const ConvolutionKernels* convolution = nullptr;
};

#if defined(BVF_AMX)
// Linux gives a process the tile registers only if it asks for them.
bool has_amx() {
  constexpr int leaf = 7, tile_bit = 24, bf16_bit = 22, request_permission = 0x1023, tile_data = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(leaf, 0, &a, &b, &c, &d) && d >> tile_bit & d >> bf16_bit & 1 &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

const Capability& chosen() {
  static const Capability choice = [] {
#if defined(__x86_64__)
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("fma");
#endif
#if defined(BVF_AVX512_BF16)
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    // The widest instruction set is last, because the last supported one is chosen.
    const Capability all[] = {
        {"baseline", true, &baseline::latent_kernels, &baseline::likelihood_kernels, &baseline::log_densities_kernels},
#if defined(__x86_64__)
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2::latent_kernels,
         &avx2::likelihood_kernels, &avx2::log_densities_kernels},
        {"avx512", avx512, &avx512::latent_kernels, &avx512::likelihood_kernels, &avx512::log_densities_kernels},
#endif
#if defined(BVF_AVX512_BF16)
        {"avx512_bf16", avx512_bf16, &avx512::latent_kernels, &avx512::likelihood_kernels,
         &avx512::log_densities_kernels, &avx512_bf16::convolution_kernels},
#endif
#if defined(BVF_AMX)
        {"amx", avx512_bf16 && has_amx(), &avx512::latent_kernels, &avx512::likelihood_kernels,
         &avx512::log_densities_kernels, &amx::convolution_kernels},
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

const ConvolutionKernels* convolution_kernels() { return chosen().convolution; }

}  // namespace betavae_fast

extern "C" __attribute__((visibility("default"))) const char* betavae_fast_cpu_capability() {
  return betavae_fast::cpu_capability();
}
