// Moves tiles between strided tensors of any dtype and consecutive numbers of the compute type in L1.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>

#include "../include/problem.h"
#include "../include/storage.h"

namespace betavae_fast::BVF_ISA {

// The rows [row, row + rows) and columns [col, col + cols) of a batch. A tile of several channels has one row, and as
// many columns of each channel; channels begin p.inner columns apart.
struct Tile {
  int64_t row, rows, col, cols, channels = 1;
  int64_t size() const { return channels * rows * cols; }
};

// A pointer to the tile if its elements are consecutive in memory, otherwise null.
template <class T>
inline T* consecutive(const Problem& p, const View& view, const Tile& tile) {
  const int64_t outer = tile.col / p.inner, inner = tile.col - outer * p.inner;
  const bool one_row = tile.rows == 1 || (view.row == p.cols() && tile.cols == p.cols());
  const bool one_run = tile.channels == 1 && inner + tile.cols <= p.inner && one_row;
  if (view.data == nullptr || view.inner != 1 || !one_run) return nullptr;
  return static_cast<T*>(view.data) + tile.row * view.row + outer * view.outer + inner;
}

// Calls visit(start of the run in memory, stride, start in the tile, length) for each run of evenly spaced elements.
template <class T, class Visit>
inline void for_each_run(const Problem& p, const View& view, const Tile& tile, Visit visit) {
  if (T* whole = consecutive<T>(p, view, tile)) return visit(whole, 1, 0, tile.size());
  for (int64_t r = 0; r < tile.rows; ++r) {
    T* row = static_cast<T*>(view.data) + (tile.row + r) * view.row;
    for (int64_t channel = 0; channel < tile.channels; ++channel) {
      for (int64_t done = 0; done < tile.cols;) {
        const int64_t col = tile.col + channel * p.inner + done, outer = col / p.inner, inner = col - outer * p.inner;
        const int64_t length = p.inner - inner < tile.cols - done ? p.inner - inner : tile.cols - done;
        visit(row + outer * view.outer + inner * view.inner, view.inner, (r + channel) * tile.cols + done, length);
        done += length;
      }
    }
  }
}

// The most elements in a tile of several channels, for buffers of 16-bit types.
constexpr int64_t most_narrow = 2048;

// A pointer to the tile's first element if its channels are adjacent in memory, otherwise null.
template <class T>
inline T* side_by_side(const Problem& p, const View& view, const Tile& tile) {
  if (tile.channels == 1 || view.outer != 1) return nullptr;
  const int64_t outer = tile.col / p.inner, inner = tile.col - outer * p.inner;
  return static_cast<T*>(view.data) + tile.row * view.row + outer + inner * view.inner;
}

template <class T>
inline void transpose_four(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
#if defined(__SSE2__)
  if constexpr (sizeof(T) == 4) {
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_stride);
    __m128 c = _mm_loadu_ps(from + 2 * from_stride), d = _mm_loadu_ps(from + 3 * from_stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + to_stride, b);
    _mm_storeu_ps(to + 2 * to_stride, c), _mm_storeu_ps(to + 3 * to_stride, d);
    return;
  }
  if constexpr (sizeof(T) == 2) {
    const auto row = [=](int64_t i) {
      return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + i * from_stride));
    };
    const __m128i ab = _mm_unpacklo_epi16(row(0), row(1)), cd = _mm_unpacklo_epi16(row(2), row(3));
    const __m128i first = _mm_unpacklo_epi32(ab, cd), second = _mm_unpackhi_epi32(ab, cd);
    const auto put = [=](int64_t i, __m128i x) { _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i * to_stride), x); };
    put(0, first), put(1, _mm_srli_si128(first, 8)), put(2, second), put(3, _mm_srli_si128(second, 8));
    return;
  }
#endif
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t c = 0; c < 4; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

// Transposes: to[c][r] = from[r][c]. The inner loop runs along the longer side, because a loop of few iterations is
// mostly overhead.
template <class T>
inline void transpose(int64_t rows, int64_t cols, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  const int64_t whole_rows = rows / 4 * 4, whole_cols = cols / 4 * 4;
  const bool tall = rows > cols;
  const int64_t outer = tall ? whole_cols : whole_rows, inner = tall ? whole_rows : whole_cols;
  const int64_t from_outer = tall ? 1 : from_stride, from_inner = tall ? from_stride : 1;
  const int64_t to_outer = tall ? to_stride : 1, to_inner = tall ? 1 : to_stride;
  for (int64_t o = 0; o < outer; o += 4)
    for (int64_t i = 0; i < inner; i += 4)
      transpose_four(from + o * from_outer + i * from_inner, from_stride, to + o * to_outer + i * to_inner, to_stride);
  for (int64_t c = whole_cols; c < cols; ++c)
    for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  for (int64_t r = whole_rows; r < rows; ++r)
    for (int64_t c = 0; c < whole_cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

// Prefetches the tile's cache lines, which arrive while another tile is computed.
template <class T>
inline void prefetch(const Problem& p, const View& view, const Tile& tile) {
  const T* from = consecutive<const T>(p, view, tile);
  if (from == nullptr) return;
  for (int64_t i = 0; i < tile.size(); i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i);
}

// The tile in the compute type: a pointer into the tensor if it is stored that way, otherwise the buffer.
template <class T>
inline const Compute<T>* load(const Problem& p, const View& view, const Tile& tile, Compute<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(Compute<T>)) {
    if (const T* here = consecutive<const T>(p, view, tile)) return here;
  }
  if (const T* from = side_by_side<const T>(p, view, tile)) {
    if constexpr (sizeof(T) == sizeof(Compute<T>)) {
      transpose(tile.cols, tile.channels, from, view.inner, buffer, tile.cols);
    } else {
      T narrow_buffer[most_narrow];
      transpose(tile.cols, tile.channels, from, view.inner, narrow_buffer, tile.cols);
      for (int64_t k = 0; k < tile.size(); ++k) buffer[k] = widen(narrow_buffer[k]);
    }
    return buffer;
  }
  for_each_run<const T>(p, view, tile, [buffer](const T* from, int64_t stride, int64_t at, int64_t length) {
    Compute<T>* to = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k]);
    else if (stride == 0)
      std::fill_n(to, length, widen(*from));
    else
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k * stride]);
  });
  return buffer;
}

// The memory in which to compute the tile: the tensor itself if it has the compute type and the tile is consecutive,
// otherwise the buffer, which store() then writes to the tensor.
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
  if (T* to = side_by_side<T>(p, view, tile)) {
    if constexpr (sizeof(T) == sizeof(Compute<T>)) {
      transpose(tile.channels, tile.cols, buffer, tile.cols, to, view.inner);
    } else {
      T narrow_buffer[most_narrow];
      for (int64_t k = 0; k < tile.size(); ++k) narrow(buffer[k], narrow_buffer[k]);
      transpose(tile.channels, tile.cols, narrow_buffer, tile.cols, to, view.inner);
    }
    return;
  }
  for_each_run<T>(p, view, tile, [buffer](T* to, int64_t stride, int64_t at, int64_t length) {
    const Compute<T>* from = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k]);
    else
      for (int64_t k = 0; k < length; ++k) narrow(from[k], to[k * stride]);
  });
}

}  // namespace betavae_fast::BVF_ISA
