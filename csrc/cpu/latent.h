// The latent op on the CPU, free of torch: what to compute (views) and the kernels of one instruction set.
#pragma once

#include <cstdint>

#include "../include/philox.h"

namespace betavae_fast {

enum class DType { float16, bfloat16, float32, float64 };

enum class KlReduction : int64_t { none = 0, dim = 1, sample = 2, batchmean = 3, sum = 4 };

// Every operand is seen as rows x outer x inner elements; strides in elements, zero where it is expanded.
struct View {
  void* data = nullptr;
  int64_t row = 0, outer = 0, inner = 0;
};

struct LatentProblem {
  DType dtype;
  int64_t rows, outer, inner;
  View mu, logvar, noise;  // noise.data is null where noise comes from key
  NoiseKey key;
  int64_t first_row;
  double logvar_min, logvar_max;
  int64_t cols() const { return outer * inner; }
};

struct LatentForward : LatentProblem {
  View z, kl;              // null data: not wanted. kl: KlReduction::none only
  KlReduction reduction;
  double* partial;         // the sums of one work item, laid out by LatentPartition; null: no KL, or none
};

struct LatentBackward : LatentProblem {
  View grad_z, grad_kl;    // null data: zero
  double kl_scale;         // from the gradient of the reduced KL to that of one element
  View grad_mu, grad_logvar;
};

// How a batch is cut, by shape alone: the order of every sum follows from it, whatever the threads, layout or instruction
// set. A tile is one pass through L1; a work item is the tiles whose column sums are kept together.
struct LatentPartition {
  static constexpr int64_t tile_elements = 512;
  int64_t tile_rows, tile_cols, item_rows, row_items, panels;

  LatentPartition(int64_t rows, int64_t cols) {
    tile_cols = cols < tile_elements ? cols : tile_elements;
    tile_rows = tile_elements / tile_cols;
    const int64_t tiles = tile_rows >= 4 ? 8 : (32 + tile_rows - 1) / tile_rows;
    item_rows = tiles * tile_rows;
    row_items = (rows + item_rows - 1) / item_rows;
    panels = (cols + tile_cols - 1) / tile_cols;
  }
  int64_t items() const { return row_items * panels; }
  int64_t partials(KlReduction reduction, int64_t rows, int64_t cols) const {
    switch (reduction) {
      case KlReduction::none: return 0;
      case KlReduction::dim: return row_items * cols;
      case KlReduction::sample: return rows * panels;
      default: return items();
    }
  }
};

struct LatentKernels {
  void (*forward)(const LatentForward&, int64_t first_item, int64_t last_item);
  void (*backward)(const LatentBackward&, int64_t first_item, int64_t last_item);
};

namespace baseline {
extern const LatentKernels latent_kernels;
}
namespace avx2 {
extern const LatentKernels latent_kernels;
}
namespace avx512 {
extern const LatentKernels latent_kernels;
}

}  // namespace betavae_fast
