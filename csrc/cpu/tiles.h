// Moving a tile between a strided tensor of any dtype and consecutive numbers of the compute type in L1.
#pragma once

#include "../include/storage.h"
#include "latent.h"

namespace betavae_fast::BVF_ISA {

// Rows [row, row + rows) x columns [col, col + cols) of a tensor whose columns are outer x inner.
struct Tile {
  int64_t row, rows, col, cols;
  int64_t size() const { return rows * cols; }
};

// Calls visit(run start in memory, stride, run start in the tile, length) for each run of evenly spaced elements.
template <class T, class Visit>
inline __attribute__((always_inline)) void for_each_run(const View& view, int64_t inner, const Tile& tile, Visit visit) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    T* row = static_cast<T*>(view.data) + (tile.row + r) * view.row;
    int64_t col = tile.col, done = 0;
    while (done < tile.cols) {
      const int64_t o = col / inner, i = col - o * inner;
      const int64_t length = inner - i < tile.cols - done ? inner - i : tile.cols - done;
      visit(row + o * view.outer + i * view.inner, view.inner, r * tile.cols + done, length);
      col += length;
      done += length;
    }
  }
}

// The tile as it lies in memory, if it lies there as consecutive compute-type numbers; else null.
template <class T>
inline Compute<T>* in_place(const View& view, int64_t inner, int64_t cols, const Tile& tile) {
  const bool one_run = tile.col / inner == (tile.col + tile.cols - 1) / inner;
  if constexpr (sizeof(T) == sizeof(Compute<T>)) {
    if (view.inner == 1 && one_run && (tile.rows == 1 || (view.row == cols && tile.cols == cols)))
      return static_cast<T*>(view.data) + tile.row * view.row + tile.col / inner * view.outer + tile.col % inner;
  }
  return nullptr;
}

template <class T>
inline const Compute<T>* load(const View& view, int64_t inner, int64_t cols, const Tile& tile, Compute<T>* buffer) {
  if (const Compute<T>* here = in_place<T>(view, inner, cols, tile)) return here;
  for_each_run<const T>(view, inner, tile, [buffer](const T* from, int64_t stride, int64_t at, int64_t length) {
    Compute<T>* to = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k]);
    else
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k * stride]);
  });
  return buffer;
}

// Asks for the tile's cache lines, if they are consecutive, while something else is computed.
template <class T>
inline void prefetch(const View& view, int64_t inner, int64_t cols, const Tile& tile) {
  const bool one_run = view.inner == 1 && tile.cols <= inner && (tile.rows == 1 || (view.row == cols && tile.cols == cols));
  if (!view.data || !one_run) return;
  const T* first = static_cast<const T*>(view.data) + tile.row * view.row + tile.col / inner * view.outer + tile.col % inner;
  for (int64_t i = 0; i < tile.size(); i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(first + i);
}

// Where to write the tile: straight into the tensor if it can be, else into the buffer, which store() then spreads out.
template <class T>
inline Compute<T>* destination(const View& view, int64_t inner, int64_t cols, const Tile& tile, Compute<T>* buffer) {
  Compute<T>* here = view.data ? in_place<T>(view, inner, cols, tile) : nullptr;
  return here ? here : buffer;
}

template <class T>
inline void store(const View& view, int64_t inner, const Tile& tile, const Compute<T>* buffer, const Compute<T>* written) {
  if (!view.data || written != buffer) return;
  for_each_run<T>(view, inner, tile, [buffer](T* to, int64_t stride, int64_t at, int64_t length) {
    const Compute<T>* from = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k]);
    else
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k * stride]);
  });
}

}  // namespace betavae_fast::BVF_ISA
