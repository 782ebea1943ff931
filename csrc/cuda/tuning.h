// The figures by which a launch is cut into CTAs. They suit one GPU better than another: `python -m benchmarks.tuning`
// tries some.
#pragma once

#include <cstdint>

namespace betavae_fast::cuda {

// Sums are added up CTA by CTA, so that their last bits depend on these. Each launch reads them once.
struct Tuning {
  int64_t enough_ctas = 2048;   // of the latent op and the likelihood: fill any GPU a few times over
  int64_t most_tiles = 32;      // of such a CTA: bounds the number of float additions in a row
  int64_t mixture_ctas = 1024;  // of the total correlation, at most, where what they stream past them is split
};

extern Tuning tuning;

}  // namespace betavae_fast::cuda
