// The likelihood op on the CPU, free of torch: what to compute (views) and the kernels of one instruction set.
#pragma once

#include <cstdint>

#include "../include/problem.h"

namespace betavae_fast {

struct LikelihoodProblem : Problem {
  DType dtype = DType::float32;
  Pixels pixels = Pixels::float32;
  Likelihood likelihood = Likelihood::bernoulli;
  double scale = 1;
  View decoded, target;       // of Pixels::bits: data is the first row's first byte, row the bytes a row
  View nll;                   // null data: its elements are not wanted
  double* partial = nullptr;  // one sum a row and panel (see LikelihoodPartition); null: not wanted
  View grad;                  // null data: not wanted
  View grad_nll;              // gradient of each element's NLL, before grad_scale; null data: 1
  double grad_scale = 1;
};

// How a batch is cut, by shape alone: the order of every sum follows from it. Tiles are numbered along a row, then
// down.
struct LikelihoodPartition {
  static constexpr int64_t tile_elements = 512;
  int64_t tile_rows, tile_cols, panels, tiles;

  LikelihoodPartition(int64_t rows, int64_t cols) {
    tile_cols = cols < tile_elements ? cols : tile_elements;
    tile_rows = tile_elements / tile_cols;
    panels = (cols + tile_cols - 1) / tile_cols;
    tiles = (rows + tile_rows - 1) / tile_rows * panels;
  }
};

struct LikelihoodKernels {
  void (*run)(const LikelihoodProblem&, int64_t first_tile, int64_t last_tile);
};

namespace baseline {
extern const LikelihoodKernels likelihood_kernels;
}
namespace avx2 {
extern const LikelihoodKernels likelihood_kernels;
}
namespace avx512 {
extern const LikelihoodKernels likelihood_kernels;
}

}  // namespace betavae_fast
