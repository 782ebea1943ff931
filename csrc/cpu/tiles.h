// Moving a tile between a strided tensor of any dtype and consecutive numbers of the compute type in L1.
#pragma once

#include "../include/storage.h"
#include "../problem.h"

namespace betavae_fast::BVF_ISA {

// Rows [row, row + rows) x columns [col, col + cols).
struct Tile {
  int64_t row, rows, col, cols;
  int64_t size() const { return rows * cols; }
};

// The tile as it lies in memory, if its elements are consecutive there; else null.
template <class T>
inline T* consecutive(const Problem& p, const View& view, const Tile& tile) {
  const int64_t outer = tile.col / p.inner, inner = tile.col - outer * p.inner;
  const bool one_row = tile.rows == 1 || (view.row == p.cols() && tile.cols == p.cols());
  if (view.data == nullptr || view.inner != 1 || inner + tile.cols > p.inner || !one_row) return nullptr;
  return static_cast<T*>(view.data) + tile.row * view.row + outer * view.outer + inner;
}

// Calls visit(run start in memory, stride, run start in the tile, length) for each run of evenly spaced elements.
template <class T, class Visit>
inline void for_each_run(const Problem& p, const View& view, const Tile& tile, Visit visit) {
  if (T* whole = consecutive<T>(p, view, tile)) return visit(whole, 1, 0, tile.size());
  for (int64_t r = 0; r < tile.rows; ++r) {
    T* row = static_cast<T*>(view.data) + (tile.row + r) * view.row;
    for (int64_t done = 0; done < tile.cols;) {
      const int64_t col = tile.col + done, outer = col / p.inner, inner = col - outer * p.inner;
      const int64_t length = p.inner - inner < tile.cols - done ? p.inner - inner : tile.cols - done;
      visit(row + outer * view.outer + inner * view.inner, view.inner, r * tile.cols + done, length);
      done += length;
    }
  }
}

// Asks for the tile's cache lines while something else is computed.
template <class T>
inline void prefetch(const Problem& p, const View& view, const Tile& tile) {
  const T* from = consecutive<const T>(p, view, tile);
  if (from == nullptr) return;
  for (int64_t i = 0; i < tile.size(); i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i);
}

// The tile in the compute type: where it lies, if it lies there so, else in the buffer.
template <class T>
inline const Compute<T>* load(const Problem& p, const View& view, const Tile& tile, Compute<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(Compute<T>)) {
    if (const T* here = consecutive<const T>(p, view, tile)) return here;
  }
  for_each_run<const T>(p, view, tile, [buffer](const T* from, int64_t stride, int64_t at, int64_t length) {
    Compute<T>* to = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k]);
    else
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k * stride]);
  });
  return buffer;
}

// Where to compute the tile: straight into the tensor if it can be, else into the buffer, which store() then writes out.
template <class T>
inline Compute<T>* destination(const Problem& p, const View& view, const Tile& tile, Compute<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(Compute<T>)) {
    if (T* here = consecutive<T>(p, view, tile)) return here;
  }
  return buffer;
}

template <class T>
inline void store(const Problem& p, const View& view, const Tile& tile, const Compute<T>* computed,
                  const Compute<T>* buffer) {
  if (view.data == nullptr || computed != buffer) return;
  for_each_run<T>(p, view, tile, [buffer](T* to, int64_t stride, int64_t at, int64_t length) {
    const Compute<T>* from = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k]);
    else
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k * stride]);
  });
}

}  // namespace betavae_fast::BVF_ISA
