// The kernels of the convolutions with kernel 4, stride 2 and padding 1.
//
// With the fine image, shifted by its padding, cut into cells of 2x2 pixels, such a convolution is one of kernel 2 and
// stride 1. Both directions are, with the cells of either image in a grid of (rows + 1) x (cols + 1):
//
//   coarse (i, j) = sum over a, b of W[a, b] fine cell (i + a, j + b)               ordinary
//   fine cell (i, j) = sum over a, b of W'[a, b] coarse (i - 1 + a, j - 1 + b)      transposed
//
// The coarse image stands in its grid one row and one column further, after zeros. So both are one sum over a position
// and its right, lower and lower right neighbours. As its stride is 1, positions are numbered through all rows and
// images, and tiles of 16 positions need no regard to where a row ends: there the right neighbour is the zero that
// begins the next row, or the result belongs to no pixel. The gradient of the weight is a product of the two grids,
// summed over all positions, for each of the four neighbours.
//
// Numbers that are not finite in the image or its gradient reach the results that they should. In the gradient of the
// weight they reach more, because they meet zeros of the padding; so do those in the weight, at the images' borders.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 wrongly finds such variables in its own intrinsics
#endif

#include "convolution.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>

#include "tile_products.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

inline __mmask32 first_lanes(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

// A buffer of this thread, which later calls use again.
template <class T, int which>
inline T* scratch(int64_t size) {
  struct Free {
    void operator()(T* memory) const { _mm_free(memory); }
  };
  thread_local std::unique_ptr<T, Free> memory;
  thread_local int64_t available = 0;
  if (available < size) {
    available = 0;
    memory.reset();
    memory.reset(static_cast<T*>(_mm_malloc(static_cast<size_t>(size) * sizeof(T), 64)));
    if (!memory) throw std::bad_alloc();
    available = size;
  }
  return memory.get();
}

// Some whole images.
struct Part : Convolution {
  Part(const Convolution& whole, int64_t number) : Convolution(whole), first(number * part()) {
    images = std::min(part(), images - first);
  }
  int64_t first;
  int64_t fine_positions() const { return images * cells(); }
  int64_t coarse_positions() const { return fine_positions() - cols - 2; }  // up to the last that counts
  // With the neighbours of the last position. An odd number of cache lines, which spreads the rows over all sets of L1.
  int64_t grid() const { return round_up(round_up(fine_positions(), depth) + cols + 2, 2 * depth) + depth; }
};

// Calls visit(position in the images or -1 for padding, position in the grid, count) for runs of consecutive numbers.
template <class Visit>
inline void fine_runs(const Part& p, int64_t cell, Visit visit) {
  const int64_t f = p.fine, width = 2 * p.cols;
  for (int64_t image = 0; image < p.images; ++image)
    for (int64_t i = 0; i <= p.rows; ++i)
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t row = 2 * i - 1 + half;
        int64_t to = (image * p.cells() + i * (p.cols + 1)) * cell + half * 2 * f;
        if (row < 0 || row == 2 * p.rows) {
          for (int64_t j = 0; j <= p.cols; ++j) visit(-1, to + j * cell, 2 * f);
          continue;
        }
        int64_t from = (((p.first + image) * 2 * p.rows + row) * width) * f;
        visit(-1, to, f);
        visit(from, to + f, f);
        from += f;
        to += cell;
        for (int64_t j = 1; j < p.cols; ++j, from += 2 * f, to += cell) visit(from, to, 2 * f);
        visit(from, to, f);
        visit(-1, to + f, f);
      }
}

// shift: the rows and columns of zeros before each image, 0 or 1.
template <class Visit>
inline void coarse_runs(const Part& p, int64_t shift, Visit visit) {
  const int64_t c = p.coarse, row = (p.cols + 1) * c;
  for (int64_t image = 0; image < p.images; ++image) {
    int64_t to = image * p.cells() * c;
    if (shift) visit(-1, to, row);
    to += shift * row;
    for (int64_t i = 0; i < p.rows; ++i, to += row) {
      if (shift) visit(-1, to, c);
      visit(((p.first + image) * p.rows + i) * p.cols * c, to + shift * c, p.cols * c);
    }
  }
}

template <class Visit>
inline void runs(const Part& p, bool of_fine, int64_t cell, int64_t shift, Visit visit) {
  if (of_fine)
    fine_runs(p, cell, visit);
  else
    coarse_runs(p, shift, visit);
}

// Lanes in which the output of a ReLU is positive or NaN.
inline __mmask32 passes(__m512i output) {
  const __mmask32 nan = _mm512_cmpgt_epu16_mask(output, _mm512_set1_epi16(static_cast<int16_t>(0xFF80)));
  return nan | _mm512_cmpgt_epi16_mask(output, _mm512_setzero_si512());
}

// Copies numbers; those at which output, the result of a ReLU, is not positive become zero.
template <bool masked>
inline void copy(const BFloat16* from, const BFloat16* output, int64_t count, BFloat16* to) {
  const auto move = [&](int64_t k, __mmask32 lanes) {
    const __mmask32 wanted = masked ? passes(_mm512_maskz_loadu_epi16(lanes, output + k)) : lanes;
    _mm512_mask_storeu_epi16(to + k, lanes, _mm512_maskz_loadu_epi16(wanted, from + k));
  };
  int64_t k = 0;
  for (; k + 32 <= count; k += 32) move(k, ~__mmask32{0});
  if (k < count) move(k, first_lanes(count - k));
}

// One channel, of which a row of cells is woven from two rows of the image in pairs of pixels.
struct Weave {
  __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i second = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
  __m512i upper = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  __m512i lower = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);

  // Calls visit(position of the cells in the grid, of 32 pixels in the images, which of these exist in the two rows).
  template <class Visit>
  static void rows(const Part& p, Visit visit) {
    const int64_t width = 2 * p.cols;
    for (int64_t image = 0; image < p.images; ++image)
      for (int64_t i = 0; i <= p.rows; ++i)
        for (int64_t j = 0; j <= p.cols; j += 16) {
          const int64_t at = ((p.first + image) * 2 * p.rows + 2 * i - 1) * width + 2 * j - 1;
          const __mmask32 here = first_lanes(width + 1 - 2 * j) & (j == 0 ? ~1u : ~0u);
          visit((image * p.cells() + i * (p.cols + 1) + j) * 4, at, i > 0 ? here : 0, i < p.rows ? here : 0);
        }
  }
};

// Copies the images into the grid.
template <bool masked>
inline void load(const Part& p, bool of_fine, const BFloat16* images, const BFloat16* output, BFloat16* grid) {
  const int64_t cell = of_fine ? p.cell() : p.coarse;
  if (of_fine && p.fine == 1) {
    const Weave weave;
    const auto row = [=](int64_t from, __mmask32 lanes) {
      if (masked) lanes &= passes(_mm512_maskz_loadu_epi16(lanes, output + from));
      return _mm512_maskz_loadu_epi16(lanes, images + from);
    };
    Weave::rows(p, [=](int64_t to, int64_t from, __mmask32 upper, __mmask32 lower) {
      const __m512i a = row(from, upper), b = row(from + 2 * p.cols, lower);
      _mm512_storeu_si512(grid + to, _mm512_permutex2var_epi32(a, weave.first, b));
      _mm512_storeu_si512(grid + to + 32, _mm512_permutex2var_epi32(a, weave.second, b));
    });
  } else {
    runs(p, of_fine, cell, 1, [=](int64_t from, int64_t to, int64_t count) {
      if (from < 0)
        std::fill_n(grid + to, count, BFloat16{0});
      else
        copy<masked>(images + from, masked ? output + from : nullptr, count, grid + to);
    });
  }
  std::fill(grid + p.images * p.cells() * cell, grid + p.grid() * cell, BFloat16{0});
}

inline void store(const Part& p, bool of_fine, const BFloat16* grid, BFloat16* images) {
  if (of_fine && p.fine == 1) {
    const Weave weave;
    return Weave::rows(p, [=](int64_t from, int64_t to, __mmask32 upper, __mmask32 lower) {
      const __m512i a = _mm512_loadu_si512(grid + from), b = _mm512_loadu_si512(grid + from + 32);
      _mm512_mask_storeu_epi16(images + to, upper, _mm512_permutex2var_epi32(a, weave.upper, b));
      _mm512_mask_storeu_epi16(images + to + 2 * p.cols, lower, _mm512_permutex2var_epi32(a, weave.lower, b));
    });
  }
  runs(p, of_fine, p.cell(), 0, [=](int64_t to, int64_t from, int64_t count) {
    if (to >= 0) copy<false>(grid + from, nullptr, count, images + to);
  });
}

// Computes the sum over the four neighbours: from the grid of one image to that of the other. There may be no bias.
void convolve(const Part& p, bool to_fine, const BFloat16* in, const BFloat16* packed, const float* bias, bool relu,
              BFloat16* out) {
  const int64_t cell = to_fine ? p.coarse : p.cell(), columns = to_fine ? p.padded_cell() : p.coarse;
  const int64_t used = to_fine ? p.cell() : p.coarse;  // the others are padding
  const Tiles tiles(std::min(2 * cell, depth));
  TileProduct product;
  product.a_row = cell;
  product.a_tap = (p.cols + 1) * cell;
  product.b_step = columns / side * tile_of_b;
  product.taps = 2;
  product.steps = round_up(2 * cell, depth) / depth;
  product.start_row = 0;
  product.c_row = 2 * side;
  // The second operand of max is its result if one of them is NaN.
  const __m512 lowest = relu ? _mm512_setzero_ps() : _mm512_set1_ps(-INFINITY);
  const auto finish = [&](const float* sums, int64_t m, int64_t n, int64_t rows, bool two_cols) {
    const __mmask32 lanes = first_lanes(used - n);
    for (int64_t i = 0; i < rows; ++i, sums += 2 * side) {
      const __m512 left = _mm512_max_ps(lowest, _mm512_load_ps(sums));
      const __m512 right = _mm512_max_ps(lowest, _mm512_load_ps(sums + (two_cols ? side : 0)));
      _mm512_mask_storeu_epi16(out + (m + i) * used + n, lanes, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    }
  };
  alignas(64) float sums[2 * side * 2 * side];
  alignas(64) static constexpr float zeros[2 * side] = {};
  product.c = sums;
  const int64_t positions = to_fine ? p.fine_positions() : p.coarse_positions();
  for (int64_t m = 0; m < positions; m += 2 * side) {
    product.a = in + m * cell;
    const bool two_rows = m + side < positions;
    for (int64_t n = 0; n < columns; n += 2 * side) {
      const bool two_cols = n + side < columns;
      product.b = packed + n * depth;
      product.start = bias ? bias + n : zeros;
      multiply(tiles, product, two_rows, two_cols);
      finish(sums, m, n, two_rows ? 2 * side : side, two_cols);
    }
  }
}

// Loads the tile of B that 16 columns of 32 rows are, the left and the right eight.
inline void interleave(const BFloat16* left, const BFloat16* right, int64_t row, __m512i (&tile)[side]) {
  // Pairs number k with number k + 16.
  const __m512i order =
      _mm512_add_epi32(_mm512_set1_epi32(16 << 16),
                       _mm512_mullo_epi32(_mm512_set1_epi32(0x10001),
                                          _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)));
  const auto eight = [](const BFloat16* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
#pragma GCC unroll 16
  for (int k = 0; k < side; ++k, left += 2 * row, right += 2 * row) {
    const __m256i even = _mm256_set_m128i(eight(right), eight(left)),
                  odd = _mm256_set_m128i(eight(right + row), eight(left + row));
    tile[k] = _mm512_permutexvar_epi16(order, _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1));
  }
}

// Adds the sums of the tile's columns.
inline void add_columns(const __m512i (&tile)[side], float* sums) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3F80);
  __m512 even = _mm512_loadu_ps(sums), odd = _mm512_setzero_ps();
#pragma GCC unroll 16
  for (int k = 0; k < side; k += 2) {
    even = _mm512_dpbf16_ps(even, (__m512bh)tile[k], ones);
    odd = _mm512_dpbf16_ps(odd, (__m512bh)tile[k + 1], ones);
  }
  _mm512_storeu_ps(sums, _mm512_add_ps(even, odd));
}

inline void put(const __m512i (&tile)[side], BFloat16* to, int64_t row) {
#pragma GCC unroll 16
  for (int k = 0; k < side; ++k) _mm512_storeu_si512(to + k * row, tile[k]);
}

inline void transpose(__m512i (&x)[side]) {
  __m512i y[side];
#pragma GCC unroll 16
  for (int i = 0; i < side; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < side; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  // Now lane l of x[4 i + j] holds rows 4 i to 4 i + 3 of column 4 l + j.
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88),
                  even_high = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xDD),
                  odd_high = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xDD);
    y[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
    y[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    y[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
  }
  std::copy(y, y + side, x);
}

// Adds the gradient of the weight, sums[a, b][number of the fine cell][coarse channel], and that of the bias behind it.
void multiply_grids(const Part& p, const BFloat16* coarse, const BFloat16* fine, bool transposed, float* sums) {
  const int64_t cell = p.cell(), row = p.cols + 1, positions = round_up(p.coarse_positions(), depth), length = p.grid();
  // A shift of the grid leads to the neighbours (a, b). But cells of less than a tile are stacked with their
  // neighbours.
  const bool stacked = cell < side;
  const int64_t rows = stacked ? 4 * cell : cell, shifts = stacked ? 1 : 4;
  BFloat16* across = scratch<BFloat16, 3>(rows * length);        // the fine grid, transposed
  BFloat16* tiled = scratch<BFloat16, 4>(p.coarse * positions);  // the coarse grid in tiles of B, without leading zeros
  float* bias = sums + 4 * cell * p.coarse;
  __m512i tile[side];
  for (int64_t m = 0; m < (stacked ? p.fine_positions() : length); m += depth)
    for (int64_t r = 0; r < rows; r += side) {
      const auto from = [&](int64_t r) { return fine + (m + r / (2 * cell) * row) * cell + r % (2 * cell); };
      interleave(from(r), from(r + side / 2), cell, tile);
      if (transposed) add_columns(tile, bias + r);
      transpose(tile);
      put(tile, across + r * length + m, length);
    }
  for (int64_t m = 0; m < positions; m += depth)
    for (int64_t n = 0; n < p.coarse; n += side) {
      const BFloat16* from = coarse + (m + row + 1) * p.coarse + n;
      interleave(from, from + side / 2, p.coarse, tile);
      if (!transposed) add_columns(tile, bias + n);
      put(tile, tiled + m * p.coarse + n * depth, depth);
    }

  const Tiles tiles;
  TileProduct product;
  product.a_row = length;
  product.b_step = p.coarse * depth;
  product.taps = 1;
  product.steps = positions / depth;
  product.start_row = product.c_row = p.coarse;
  for (int64_t n = 0; n < p.coarse; n += 2 * side)
    for (int64_t r = 0; r < rows; r += 2 * side)
      for (int64_t shift = 0; shift < shifts; ++shift) {
        product.a = across + r * length + shift / 2 * row + shift % 2;
        product.b = tiled + n * depth;
        product.start = product.c = sums + (shift * cell + r) * p.coarse + n;
        multiply(tiles, product, r + side < rows, n + side < p.coarse);
      }
}

void forward(const ConvolutionForward& whole, int64_t first, int64_t last) {
  for (int64_t number = first; number < last; ++number) {
    const Part p(whole, number);
    const bool to_fine = whole.transposed;
    BFloat16* in = scratch<BFloat16, 0>(p.grid() * std::max(p.padded_cell(), p.coarse));
    BFloat16* out = scratch<BFloat16, 1>(p.grid() * std::max(p.padded_cell(), p.coarse));
    load<false>(p, !to_fine, whole.input, nullptr, in);
    convolve(p, to_fine, in, whole.packed, whole.bias, whole.relu, out);
    store(p, to_fine, out, whole.output);
  }
}

void backward(const ConvolutionBackward& whole, int64_t first, int64_t last) {
  const bool transposed = whole.transposed;
  for (int64_t group = first; group < last; ++group) {
    float* sums = whole.partials + group * whole.partial_size();
    std::fill_n(sums, whole.partial_size(), 0.0f);
    const int64_t begin = group * whole.parts_of_group();
    for (int64_t number = begin; number < std::min(begin + whole.parts_of_group(), whole.parts()); ++number) {
      const Part p(whole, number);
      const int64_t most = p.grid() * std::max(p.padded_cell(), p.coarse);
      BFloat16 *grad = scratch<BFloat16, 0>(most), *grad_in = scratch<BFloat16, 1>(most),
               *in = scratch<BFloat16, 2>(most);
      if (whole.output)
        load<true>(p, transposed, whole.grad, whole.output, grad);
      else
        load<false>(p, transposed, whole.grad, nullptr, grad);
      load<false>(p, !transposed, whole.input, nullptr, in);
      multiply_grids(p, transposed ? in : grad, transposed ? grad : in, transposed, sums);
      if (whole.grad_input == nullptr) continue;
      convolve(p, !transposed, grad, whole.packed, nullptr, false, grad_in);
      store(p, !transposed, grad_in, whole.grad_input);
    }
  }
}

// Calls visit(row and column of the kernel, a, b and the pixel of the cell that they are).
template <class Visit>
inline void kernel_positions(bool shifted, Visit visit) {
  for (int64_t y = 0; y < 4; ++y)
    for (int64_t x = 0; x < 4; ++x) {
      const int64_t a = shifted ? 1 - y / 2 : y / 2, b = shifted ? 1 - x / 2 : x / 2;
      visit(y, x, a, b, y % 2 * 2 + x % 2);
    }
}

void pack(const Convolution& p, const ConvolutionWeight& weight, bool to_fine, BFloat16* packed, int64_t first,
          int64_t last) {
  const int64_t cell = to_fine ? p.coarse : p.cell();
  const uint64_t step = (to_fine ? p.padded_cell() : p.coarse) * depth, steps = round_up(2 * cell, depth) / depth;
  const auto at_row = [=](uint64_t k) { return k / depth * step + k % depth / 2 * depth + k % 2; };
  const auto at_column = [](uint64_t n) { return n / side * tile_of_b + n % side * 2; };
  kernel_positions(to_fine, [&](int64_t y, int64_t x, int64_t a, int64_t b, int64_t pixel) {
    for (int64_t c = first; c < last; ++c) {
      const int64_t from = c * weight.strides[0] + y * weight.strides[2] + x * weight.strides[3];
      for (int64_t f = 0; f < p.fine; ++f) {
        const int64_t number = pixel * p.fine + f, k = b * cell + (to_fine ? c : number), n = to_fine ? number : c;
        BFloat16& to = packed[a * steps * step + at_row(k) + at_column(n)];
        if (weight.narrow)
          to = static_cast<const BFloat16*>(weight.data)[from + f * weight.strides[1]];
        else
          narrow(static_cast<const float*>(weight.data)[from + f * weight.strides[1]], to);
      }
    }
  });
}

void add(const ConvolutionBackward& p, float* grad_weight, const int64_t* strides, int64_t first, int64_t last) {
  kernel_positions(false, [&](int64_t y, int64_t x, int64_t a, int64_t b, int64_t pixel) {
    for (int64_t f = 0; f < p.fine; ++f)
      for (int64_t c = first * side; c < last * side; c += side) {
        const float* from = p.partials + ((2 * a + b) * p.cell() + pixel * p.fine + f) * p.coarse + c;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t group = 0; group < p.groups(); ++group)
          sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + group * p.partial_size()));
        float sums[side], *to = grad_weight + c * strides[0] + f * strides[1] + y * strides[2] + x * strides[3];
        _mm512_storeu_ps(sums, sum);
        for (int64_t k = 0; k < side; ++k) to[k * strides[0]] = sums[k];
      }
  });
}

}  // namespace

extern const ConvolutionKernels convolution_kernels = {pack, forward, backward, add};

}  // namespace betavae_fast::BVF_ISA
