// Moving a tile between a strided tensor of any dtype and consecutive numbers of the compute type in L1.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

// Writes past the caches. An ordinary store first reads the line that it overwrites; for results too large to be found in a
// cache by whoever reads them next, that is traffic for nothing.
template <class T>
inline void stream(const T* from, int64_t n, T* to) {
#if defined(__AVX512F__)
  using Vector = __m512i;
  const auto write = [](T* at, Vector v) { _mm512_stream_si512(reinterpret_cast<Vector*>(at), v); };
#elif defined(__AVX2__)
  using Vector = __m256i;
  const auto write = [](T* at, Vector v) { _mm256_stream_si256(reinterpret_cast<Vector*>(at), v); };
#elif defined(__SSE2__)
  using Vector = __m128i;
  const auto write = [](T* at, Vector v) { _mm_stream_si128(reinterpret_cast<Vector*>(at), v); };
#else
  using Vector = uint64_t;
  const auto write = [](T* at, Vector v) { __builtin_memcpy(at, &v, sizeof v); };
#endif
  constexpr int64_t width = sizeof(Vector) / sizeof(T);
  int64_t i = 0;
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % sizeof(Vector) != 0; ++i) to[i] = from[i];
  for (; i + width <= n; i += width) {
    Vector v;
    __builtin_memcpy(&v, from + i, sizeof v);
    write(to + i, v);
  }
  for (; i < n; ++i) to[i] = from[i];
}

// Streamed stores are seen by other threads only after this.
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Where to compute the tile: straight into the tensor if it can be, else into the buffer, which store() then writes out.
template <class T>
inline Compute<T>* destination(const Problem& p, const View& view, const Tile& tile, bool streaming, Compute<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(Compute<T>)) {
    if (T* here = streaming ? nullptr : consecutive<T>(p, view, tile)) return here;
  }
  return buffer;
}

template <class T, int64_t tile_elements>
inline void store(const Problem& p, const View& view, const Tile& tile, bool streaming, const Compute<T>* computed,
                  const Compute<T>* buffer) {
  if (view.data == nullptr || computed != buffer) return;
  T* run = streaming ? consecutive<T>(p, view, tile) : nullptr;
  if (run != nullptr) {
    T narrowed[tile_elements];
    for (int64_t k = 0; k < tile.size(); ++k) narrow(computed[k], narrowed[k]);
    return stream(narrowed, tile.size(), run);
  }
  for_each_run<T>(p, view, tile, [computed](T* to, int64_t stride, int64_t at, int64_t length) {
    const Compute<T>* from = computed + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k]);
    else
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k * stride]);
  });
}

}  // namespace betavae_fast::BVF_ISA
