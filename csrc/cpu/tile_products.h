// Products of 16x16 tiles in bfloat16, summed in float32, by AMX or by avx512_bf16.
//
// A tile of A is 16 rows of 32 numbers. A tile of B, which is 32x16, is stored as 16 rows, each of the 16 pairs of
// numbers that its rows 2k and 2k + 1 have in a column. So is a tile of C, 16x16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../include/storage.h"

namespace betavae_fast::BVF_ISA {

constexpr int64_t side = 16, depth = 32, tile_of_b = depth * side;

// C = start + A B. The sum runs over taps of A, and over steps of 32 numbers in each.
struct TileProduct {
  const BFloat16* a;
  int64_t a_row, a_tap;
  const BFloat16* b;
  int64_t b_step;  // adjacent tiles of B are adjacent columns
  int64_t taps, steps;
  const float* start;
  int64_t start_row;
  float* c;
  int64_t c_row;
};

#if defined(__AMX_BF16__)

class Tiles {
 public:
  // used: of the 32 numbers of a step.
  explicit Tiles(int64_t used = depth) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    config.bytes_of_row[4] = config.bytes_of_row[5] = static_cast<uint16_t>(2 * used);
    config.rows[6] = config.rows[7] = static_cast<uint8_t>(used / 2);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;

  template <int rows, int cols>
  void multiply(const TileProduct& p) const {
    const int64_t start_row = p.start_row * 4, c_row = p.c_row * 4, a_row = p.a_row * 2;
    const float* start_low = p.start + side * p.start_row;
    _tile_loadd(0, p.start, start_row);
    if (cols == 2) _tile_loadd(1, p.start + side, start_row);
    if (rows == 2) _tile_loadd(2, start_low, start_row);
    if (rows == 2 && cols == 2) _tile_loadd(3, start_low + side, start_row);
    const BFloat16* b = p.b;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      const BFloat16* a = p.a + tap * p.a_tap;
      for (int64_t step = 0; step < p.steps; ++step, a += depth, b += p.b_step) {
        _tile_loadd(4, a, a_row);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (cols == 2) {
          _tile_loadd(7, b + tile_of_b, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (rows == 2) {
          _tile_loadd(5, a + side * p.a_row, a_row);
          _tile_dpbf16ps(2, 5, 6);
        }
        if (rows == 2 && cols == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    float* c_low = p.c + side * p.c_row;
    _tile_stored(0, p.c, c_row);
    if (cols == 2) _tile_stored(1, p.c + side, c_row);
    if (rows == 2) _tile_stored(2, c_low, c_row);
    if (rows == 2 && cols == 2) _tile_stored(3, c_low + side, c_row);
  }
};

#else

class Tiles {
 public:
  explicit Tiles(int64_t used = depth) : pairs_(used / 2) {}

  template <int rows, int cols>
  void multiply(const TileProduct& p) const {
    for (int row = 0; row < rows; ++row)
      for (int col = 0; col < cols; ++col) multiply_one(p, row * side, col);
  }

 private:
  void multiply_one(const TileProduct& p, int64_t row, int64_t col) const {
    __m512 sum[side];
#pragma GCC unroll 16
    for (int i = 0; i < side; ++i) sum[i] = _mm512_loadu_ps(p.start + (row + i) * p.start_row + col * side);
    const BFloat16* b = p.b + col * tile_of_b;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      const BFloat16* a = p.a + tap * p.a_tap + row * p.a_row;
      for (int64_t step = 0; step < p.steps; ++step, a += depth, b += p.b_step)
        for (int64_t pair = 0; pair < pairs_; ++pair) {
          const __m512bh column = (__m512bh)_mm512_loadu_si512(b + pair * depth);
#pragma GCC unroll 16
          for (int i = 0; i < side; ++i) {
            int32_t two;
            std::memcpy(&two, a + i * p.a_row + 2 * pair, sizeof two);
            sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_set1_epi32(two), column);
          }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < side; ++i) _mm512_storeu_ps(p.c + (row + i) * p.c_row + col * side, sum[i]);
  }

  int64_t pairs_;
};

#endif

// C has one or two tiles in each direction.
inline void multiply(const Tiles& tiles, const TileProduct& product, bool two_rows, bool two_cols) {
  if (two_rows && two_cols) return tiles.multiply<2, 2>(product);
  if (two_rows) return tiles.multiply<2, 1>(product);
  if (two_cols) return tiles.multiply<1, 2>(product);
  tiles.multiply<1, 1>(product);
}

}  // namespace betavae_fast::BVF_ISA
