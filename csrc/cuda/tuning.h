// The figures that determine how launches are cut into CTAs. The best values differ between GPUs;
// `python -m benchmarks.tuning` tries some. benchmarks/cuts.py mirrors the struct. The threads of a CTA and the width
// of a panel are constants of partition.h and, for the log densities, log_densities.h.
#pragma once

#include <cstdint>

namespace betavae_fast::cuda {

// The last bits of sums depend on these figures, because sums are added up CTA by CTA. Each launch reads the figures
// once.
struct Tuning {
  int64_t enough_ctas = 2048;         // CTAs of the latent op and the likelihood that fill any GPU a few times over
  int64_t most_tiles = 32;            // most tiles of such a CTA, which bounds the number of float additions in a row
  int64_t log_densities_ctas = 1024;  // most CTAs of the log densities if the streamed side is split
};

extern Tuning tuning;

}  // namespace betavae_fast::cuda
