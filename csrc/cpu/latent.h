// The latent op on the CPU, independent of torch: the arguments of its kernels, and the kernels of each instruction
// set.
#pragma once

#include <cstdint>

#include "../include/latent.h"
#include "../include/philox.h"
#include "../include/problem.h"

namespace betavae_fast {

struct LatentProblem : Problem {
  DType dtype = DType::float32;
  View mu, logvar, noise;  // noise.data is null if the noise is drawn from key
  NoiseKey key{};
  int64_t first_row = 0;
  LatentSettings<double> settings{};
};

struct LatentForward : LatentProblem {
  View z, kl;  // data is null if not wanted; kl is used only with Reduction::none
  Reduction reduction = Reduction::none;
  double* partials = nullptr;  // the items' partial sums (see LatentPartition::partials()); null if nothing is reduced
};

struct LatentBackward : LatentProblem {
  View grad_z, grad_kl;  // data is null if the gradient is zero
  double kl_scale = 1;   // factor from the gradient of the reduced KL to the gradient of one element's KL
  View grad_mu, grad_logvar;
};

// The partition of a batch into tiles, panels and items. It depends only on the shape, so the order of every sum is the
// same for every thread count, memory layout and instruction set. A tile is one pass through L1. An item is the
// adjoining tiles of a panel whose column sums are kept together.
struct LatentPartition {
  static constexpr int64_t tile_elements = 512;
  int64_t tile_rows, tile_cols, item_rows, row_items, panels;

  LatentPartition(int64_t rows, int64_t cols) {
    tile_cols = cols < tile_elements ? cols : tile_elements;
    tile_rows = tile_elements / tile_cols;
    // A tile of whole vectors leaves no remainder to the loops.
    while (tile_rows > 16 && tile_rows * tile_cols % 16 != 0) --tile_rows;
    const int64_t tiles = tile_rows >= 4 ? 8 : (32 + tile_rows - 1) / tile_rows;
    item_rows = tiles * tile_rows;
    row_items = (rows + item_rows - 1) / item_rows;
    panels = (cols + tile_cols - 1) / tile_cols;
  }
  int64_t items() const { return row_items * panels; }
  int64_t partials(Reduction reduction, int64_t rows, int64_t cols) const {
    switch (reduction) {
      case Reduction::none: return 0;
      case Reduction::dim: return row_items * cols;
      case Reduction::sample: return rows * panels;
      default: return items();
    }
  }
};

// The units of work that threads take. A unit is an item, or a single tile if no sum runs over rows, because the tiles
// of a row are adjacent in memory. If the channels of a pixel are adjacent in memory, a unit covers several channels,
// which share cache lines. The order of the sums does not depend on the units.
struct LatentWork {
  static constexpr int64_t most_channels = 16;
  struct Unit {
    int64_t first_row, last_row, panel, channels;
  };

  // apart: the number of panels from one channel to the next.
  int64_t rows, unit_rows, panels, apart, channels = 1;

  LatentWork(const LatentProblem& p, const LatentPartition& partition, bool sums_rows)
      : rows(p.rows), unit_rows(partition.item_rows), panels(partition.panels), apart(partition.panels) {
    if (!sums_rows && partition.panels > 1) unit_rows = partition.tile_rows;
    if (p.outer == 1 || p.mu.outer != 1 || p.mu.inner == 1 || p.inner % partition.tile_cols != 0) return;
    apart = p.inner / partition.tile_cols;
    channels = p.outer;
  }
  int64_t groups() const { return (channels + most_channels - 1) / most_channels; }
  int64_t units() const { return (rows + unit_rows - 1) / unit_rows * apart * groups(); }
  Unit operator[](int64_t unit) const {
    const int64_t group = unit % groups(), panel = unit / groups() % apart;
    const int64_t first_row = unit / groups() / apart * unit_rows, rows_left = rows - first_row;
    const int64_t last_row = first_row + (rows_left < unit_rows ? rows_left : unit_rows);
    const int64_t first = group * most_channels, left = channels - first;
    return {first_row, last_row, first * apart + panel, left < most_channels ? left : most_channels};
  }
};

struct LatentKernels {
  void (*forward)(const LatentForward&, const LatentPartition&, const LatentWork&, int64_t first, int64_t last);
  void (*backward)(const LatentBackward&, const LatentPartition&, const LatentWork&, int64_t first, int64_t last);
};

}  // namespace betavae_fast
