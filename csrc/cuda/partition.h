// The partition of a batch among CTAs and their threads. It depends only on the shape and the tuning, so the order of
// every sum is the same for every memory layout, run and GPU. It contains no CUDA: tests/ops/cuda checks it with g++.
//
// The tiles cover the batch of rows x cols elements. A tile is one step of one CTA, with `group` consecutive elements
// for each thread. Narrow rows are whole in a tile, which then has several; wide rows are cut into panels. A CTA owns
// an item: tiles below each other in one panel, so that a thread keeps its columns and can hold their sums in
// registers.
#pragma once

#include "../include/numerics.h"
#include "../include/problem.h"
#include "tuning.h"

namespace betavae_fast::cuda {

constexpr int cta_threads = 256;

// The number of elements in a thread's group, which is 16 bytes.
inline int group_of(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

// Computes n / divisor for 0 <= n < 2^31 with one multiplication (Granlund & Montgomery 1994).
struct Divider {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
  }
  BVF_INLINE uint32_t quotient(uint32_t n) const {
    return (static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> 32) + n) >> shift;
  }
};

// The elements that one thread owns in its CTA's item: `room` consecutive elements from `first` on in the first tile,
// as many in each tile below it, and `last` elements (perhaps fewer, or none) in the last tile.
struct ThreadElements {
  int64_t item, panel;
  int64_t row, col;  // position of the element `first`
  int64_t first;     // row * cols + col
  int32_t tiles, room, last;

  BVF_INLINE int32_t count(int32_t tile) const { return tile + 1 < tiles ? room : last; }
};

struct Partition {
  // The batch's shape. If no value belongs to a column or a row, the same elements may be cut into rows of another
  // length.
  int64_t rows = 0, cols = 1;
  int64_t elements = 0;  // rows * cols, or fewer if the rows were cut anew and the last one is not full
  int64_t row_tiles = 0, items = 0;
  int64_t tile_stride = 0;  // distance from an element to the one below it in the next tile
  int32_t group = 4;        // elements of a thread in a tile, which are 16 bytes of the inputs
  int32_t tile_rows = 1, tile_cols = 1, panels = 1, item_tiles = 1;
  bool folded = true;  // groups may span the rows of a tile, which follow each other without a gap
  Divider by_panels, by_width;

  static constexpr int64_t panel_cols = 256;  // a CTA then reads at least 512 bytes of each row

  Partition() = default;
  // reduction: the elements that share one value, which is a sum or the gradient of a sum. A kernel keeps such values
  // for its columns (`dim`) or rows (`sample`); otherwise elements are assigned in flat order.
  Partition(int64_t batch_rows, int64_t batch_cols, int group_size, Reduction reduction, Tuning tuned)
      : rows(batch_rows), cols(batch_cols), elements(batch_rows * batch_cols), group(group_size) {
    const int64_t tile = int64_t{cta_threads} * group;
    const bool flat = reduction != Reduction::dim && reduction != Reduction::sample;
    if (flat && cols % group != 0 && period() > tile) {
      cols = panel_cols;
      rows = (elements + cols - 1) / cols;
    }
    // With few rows, broader panels keep all threads busy. Panels are not broadened for sums of rows, which must not
    // depend on the number of rows.
    int64_t broadest = panel_cols;
    if (reduction != Reduction::sample && rows * panel_cols < tile) broadest = tile / rows / group * group;
    folded = cols % group == 0 ? cols <= broadest : period() <= tile;
    if (folded) {
      tile_cols = static_cast<int32_t>(cols);
      tile_rows = static_cast<int32_t>(tile / period() * (period() / cols));
      by_width = Divider(cols);
    } else {
      const int64_t fewest = (cols + broadest - 1) / broadest, even = (cols + fewest - 1) / fewest;
      tile_cols = static_cast<int32_t>((even + group - 1) / group * group);
      panels = static_cast<int32_t>((cols + tile_cols - 1) / tile_cols);
      tile_rows = cta_threads / (tile_cols / group);
      by_width = Divider(tile_cols / group);
    }
    by_panels = Divider(panels);
    row_tiles = (rows + tile_rows - 1) / tile_rows;
    const int64_t wanted = (row_tiles * panels + tuned.enough_ctas - 1) / tuned.enough_ctas;
    item_tiles = static_cast<int32_t>(wanted < 1 ? 1 : wanted > tuned.most_tiles ? tuned.most_tiles : wanted);
    items = (row_tiles + item_tiles - 1) / item_tiles;
    tile_stride = tile_rows * cols;
  }

  int64_t ctas() const { return items * panels; }

  // Tells whether every group of every tile begins at a multiple of its size in flat order.
  bool groups_aligned() const { return folded || cols % group == 0; }
  // Tells whether no group spans two rows.
  BVF_INLINE bool groups_in_rows() const { return !folded || cols % group == 0; }

  BVF_INLINE ThreadElements thread_elements(uint32_t cta, uint32_t thread) const {
    ThreadElements p;
    p.item = by_panels.quotient(cta);
    p.panel = cta - p.item * panels;
    const uint32_t n = folded ? thread * static_cast<uint32_t>(group) : thread;
    const uint32_t local_row = by_width.quotient(n), rest = n - local_row * by_width.divisor;
    const int64_t tile = p.item * item_tiles, tiles_left = row_tiles - tile;
    p.tiles = tiles_left < item_tiles ? static_cast<int32_t>(tiles_left) : item_tiles;
    p.row = tile * tile_rows + local_row;
    p.room = static_cast<int32_t>(local_row) < tile_rows ? group : 0;
    if (folded) {
      p.col = rest;
    } else {
      const int32_t in_panel = static_cast<int32_t>(rest) * group;
      p.col = p.panel * tile_cols + in_panel;
      const int64_t left = cols - p.col;
      if (left < p.room) p.room = left > 0 ? static_cast<int32_t>(left) : 0;
    }
    p.first = p.row * cols + p.col;
    const int64_t end = elements - (p.first + (p.tiles - 1) * tile_stride);
    p.last = end >= p.room ? p.room : end > 0 ? static_cast<int32_t>(end) : 0;
    return p;
  }

 private:
  // The smallest number of elements that is both whole rows and whole groups.
  int64_t period() const {
    int64_t a = cols, b = group;
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    return cols / a * group;
  }
};

// The row, outer and inner index of an element, computed from its number in flat order; next() steps to the next
// element.
struct Index {
  int64_t row, outer, inner;

  BVF_INLINE Index(const Problem& p, int64_t element) {
    const int64_t cols = p.outer * p.inner;
    if (((element | cols) >> 32) == 0) {  // 32-bit division is several times cheaper
      row = static_cast<uint32_t>(element) / static_cast<uint32_t>(cols);
      const uint32_t col = static_cast<uint32_t>(element - row * cols);
      outer = col / static_cast<uint32_t>(p.inner);
      inner = col - outer * p.inner;
    } else {
      row = element / cols;
      const int64_t col = element - row * cols;
      outer = col / p.inner;
      inner = col - outer * p.inner;
    }
  }
  BVF_INLINE int64_t offset(const View& view) const { return row * view.row + outer * view.outer + inner * view.inner; }
  BVF_INLINE void next(const Problem& p) {
    if (++inner < p.inner) return;
    inner = 0;
    if (++outer < p.outer) return;
    outer = 0;
    ++row;
  }
};

// An operand of the kernels.
struct Tiled : View {
  // Used if vectorize() or vectorize_bits() holds: the stride between the rows of the partition, and the distance to
  // the tile below, in bytes (for bits, in bits).
  int64_t tile_row = 0, step = 0;
};

// The column of a thread, which is the same in every tile of its item.
struct Column {
  int64_t outer, inner;

  BVF_INLINE Column(const Problem& p, int64_t col)
      : outer(p.outer == 1 ? 0 : col / p.inner), inner(col - outer * p.inner) {}
  BVF_INLINE int64_t offset(const Tiled& view, int64_t row) const {
    return row * view.tile_row + outer * view.outer + inner;
  }
};

// Tells whether every group of the operand is contiguous and begins at a multiple of its size from the operand's
// beginning. Sets view.tile_row.
inline bool consecutive(const Problem& p, const Partition& partition, Tiled& view) {
  if (view.inner != 1 || !partition.groups_aligned()) return false;
  const bool joined = (p.rows == 1 || view.row == p.cols()) && (p.outer == 1 || view.outer == p.inner);
  const bool in_groups = p.cols() % partition.group == 0 && (p.rows == 1 || view.row % partition.group == 0) &&
                         (p.outer == 1 || (p.inner % partition.group == 0 && view.outer % partition.group == 0));
  view.tile_row = joined ? partition.cols : view.row;
  return joined || in_groups;
}

// Tells whether every group can be moved at once, 16 bytes at a time, or in one piece if it has fewer bytes. Sets
// view.step.
inline bool vectorize(const Problem& p, const Partition& partition, int64_t element_bytes, Tiled& view) {
  if (!view.data) return true;
  const int64_t group_bytes = partition.group * element_bytes;
  const bool aligned =
      reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(group_bytes < 16 ? group_bytes : 16) == 0;
  if (!aligned || !consecutive(p, partition, view)) return false;
  view.step = partition.tile_rows * view.tile_row * element_bytes;
  return true;
}

// Does the same for packed bits, of which a group has at most one byte. The step counts bits.
inline bool vectorize_bits(const Problem& p, const Partition& partition, Tiled& view) {
  if (!consecutive(p, partition, view)) return false;
  view.step = partition.tile_rows * view.tile_row;
  return true;
}

}  // namespace betavae_fast::cuda
