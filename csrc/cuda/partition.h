// Which elements a CTA and each of its threads own: plain arithmetic, by shape and tuning alone, so that the order of
// every sum is the same for every memory layout, run and GPU. No CUDA in it: tests/ops/cuda walks it with g++.
//
// The batch, rows x cols, is covered by tiles: one step of one CTA, `group` consecutive elements a thread. Narrow rows
// lie whole in a tile, several above each other; wide rows are cut into panels. A CTA owns an item: tiles below each
// other in one panel, so that a thread stays in its columns and can keep their sums in registers.
#pragma once

#include "../include/numerics.h"
#include "../include/problem.h"
#include "tuning.h"

namespace betavae_fast::cuda {

constexpr int cta_threads = 256;

// n / divisor for 0 <= n < 2^31, by one high multiplication (Granlund & Montgomery 1994).
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

// What one thread owns in its CTA's item: `room` consecutive elements from `first` in the first tile, and as many in
// each tile below it; perhaps fewer, or none, in the last.
struct Place {
  int64_t item, panel;
  int64_t row, col;  // of the element `first`
  int64_t first;     // row * cols + col
  int32_t tiles, room, last;

  BVF_INLINE int32_t count(int32_t tile) const { return tile + 1 < tiles ? room : last; }
};

// Whether something is kept for each column or row (a sum of the KL, or its gradient); if not, elements may be dealt
// out in flat order.
enum class Keeps { nothing, columns, rows };

struct Partition {
  int64_t rows = 0, cols = 1;  // the batch's; perhaps, if nothing is kept of them, another cut of the same elements
  int64_t elements = 0;        // rows * cols, less where the last of such rows is not full
  int64_t row_tiles = 0, items = 0;
  int64_t tile_stride = 0;  // from an element to that below it in the next tile
  int32_t group = 4;        // elements of a thread in a tile: 16 bytes of the inputs
  int32_t tile_rows = 1, tile_cols = 1, panels = 1, item_tiles = 1;
  bool folded = true;  // rows follow each other in a tile without a gap, whatever the group; else rows begin a group
  Divider by_panels, by_width;

  static constexpr int64_t panel_cols = 256;  // 512 bytes at least, read by one CTA from each row

  Partition() = default;
  Partition(int64_t batch_rows, int64_t batch_cols, int group_size, Keeps keeps, Tuning tuned)
      : rows(batch_rows), cols(batch_cols), elements(batch_rows * batch_cols), group(group_size) {
    const int64_t tile = int64_t{cta_threads} * group;
    if (keeps == Keeps::nothing && cols % group != 0 && period() > tile) {
      cols = panel_cols;
      rows = (elements + cols - 1) / cols;
    }
    // Few rows: broader panels keep all threads busy. Not for sums of rows, which must not depend on how many there
    // are.
    int64_t broadest = panel_cols;
    if (keeps != Keeps::rows && rows * panel_cols < tile) broadest = tile / rows / group * group;
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

  // Every group of every tile begins at a multiple of its size in flat order.
  bool groups_aligned() const { return folded || cols % group == 0; }
  // No group reaches from one row into the next.
  BVF_INLINE bool groups_in_rows() const { return !folded || cols % group == 0; }

  BVF_INLINE Place place(uint32_t cta, uint32_t thread) const {
    Place p;
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
  // The fewest elements that are both whole rows and whole groups.
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

// An element's place in every operand, from its place in flat order; walks on from there.
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

// An operand as the kernels take it.
struct Tiled : View {
  // For groups that move at once: the stride between rows as the partition counts them, and the bytes to the tile
  // below.
  int64_t tile_row = 0, step = 0;
};

// A thread's column, which it keeps.
struct Column {
  int64_t outer, inner;

  BVF_INLINE Column(const Problem& p, int64_t col)
      : outer(p.outer == 1 ? 0 : col / p.inner), inner(col - outer * p.inner) {}
  BVF_INLINE int64_t offset(const Tiled& view, int64_t row) const {
    return row * view.tile_row + outer * view.outer + inner;
  }
};

// Whether every group of the operand lies in one piece, at a multiple of its size from the operand's beginning.
inline bool consecutive(const Problem& p, const Partition& cut, Tiled& view) {
  if (view.inner != 1 || !cut.groups_aligned()) return false;
  const bool joined = (p.rows == 1 || view.row == p.cols()) && (p.outer == 1 || view.outer == p.inner);
  const bool in_groups = p.cols() % cut.group == 0 && (p.rows == 1 || view.row % cut.group == 0) &&
                         (p.outer == 1 || (p.inner % cut.group == 0 && view.outer % cut.group == 0));
  view.tile_row = joined ? cut.cols : view.row;
  return joined || in_groups;
}

// Whether every group moves at once, 16 bytes at a time or, where it has fewer, all of them.
inline bool vectorize(const Problem& p, const Partition& cut, int64_t element_bytes, Tiled& view) {
  if (!view.data) return true;
  const int64_t group_bytes = cut.group * element_bytes;
  const bool aligned =
      reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(group_bytes < 16 ? group_bytes : 16) == 0;
  if (!aligned || !consecutive(p, cut, view)) return false;
  view.step = cut.tile_rows * view.tile_row * element_bytes;
  return true;
}

// The same for bits, of which no group has more than a byte: all is counted in bits.
inline bool vectorize_bits(const Problem& p, const Partition& cut, Tiled& view) {
  if (!consecutive(p, cut, view)) return false;
  view.step = cut.tile_rows * view.tile_row;
  return true;
}

}  // namespace betavae_fast::cuda
