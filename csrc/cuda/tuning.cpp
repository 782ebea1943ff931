#include "tuning.h"

namespace betavae_fast::cuda {

Tuning tuning;

}  // namespace betavae_fast::cuda

// The tuning of this process. The caller may read it, and may change it while no operator of the library runs.
extern "C" __attribute__((visibility("default"))) betavae_fast::cuda::Tuning* betavae_fast_cuda_tuning() {
  return &betavae_fast::cuda::tuning;
}
