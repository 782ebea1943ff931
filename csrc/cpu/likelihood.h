// The likelihood op on the CPU, independent of torch: the arguments of its kernels, and the kernels of each instruction
// set.
#pragma once

#include <cstdint>

#include "../include/problem.h"

namespace betavae_fast {

struct LikelihoodProblem : Problem {
  DType dtype = DType::float32;
  Pixels pixels = Pixels::float32;
  Likelihood likelihood = Likelihood::bernoulli;
  double scale = 1;
  View decoded, target;        // for Pixels::bits, data is the first row's first byte, and row counts bytes
  View nll;                    // data is null if the elements are not wanted
  double* partials = nullptr;  // one partial sum per row and panel (see LikelihoodPartition); null if not wanted
  View grad;                   // data is null if not wanted
  View grad_nll;               // gradient of each element's NLL, before grad_scale is applied; data is null if it is 1
  double grad_scale = 1;
};

// The partition of a batch into tiles. It depends only on the shape, and so does the order of every sum. Tiles are
// numbered along a row first, then down the rows.
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

}  // namespace betavae_fast
