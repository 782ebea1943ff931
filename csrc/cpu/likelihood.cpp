// The likelihood op's kernels, compiled once per instruction set: BVF_ISA names the set, and the compiler's flags
// select it.

#include "likelihood.h"

#include <cstring>

#include "../include/likelihood.h"
#include "exponents.h"
#include "sums.h"
#include "tiles.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t tile_elements = LikelihoodPartition::tile_elements;

Tile tile_at(const Problem& p, const LikelihoodPartition& partition, int64_t number) {
  const int64_t row = number / partition.panels * partition.tile_rows,
                col = number % partition.panels * partition.tile_cols;
  const int64_t rows_left = p.rows - row, cols_left = p.cols() - col;
  return {row, rows_left < partition.tile_rows ? rows_left : partition.tile_rows, col,
          cols_left < partition.tile_cols ? cols_left : partition.tile_cols};
}

template <class Real, class T, class Convert>
const Real* read(const Problem& p, const View& view, const Tile& tile, Real* buffer, Convert convert) {
  for_each_run<const T>(p, view, tile, [buffer, convert](const T* from, int64_t stride, int64_t at, int64_t length) {
    Real* to = buffer + at;
    if (stride == 1)
      for (int64_t k = 0; k < length; ++k) to[k] = convert(from[k]);
    else
      for (int64_t k = 0; k < length; ++k) to[k] = convert(from[k * stride]);
  });
  return buffer;
}

// Distributes eight bits over the eight bytes of a little-endian word, each 0 or 1.
uint64_t bytes_of_bits(uint8_t bits) {
  const uint64_t one_each = (bits * 0x0101010101010101u) & 0x8040201008040201u;
  return (one_each + 0x7F7F7F7F7F7F7F7Fu) >> 7 & 0x0101010101010101u;
}

// Reads a tile of packed bits. A tile begins at a whole byte, because it is either as wide as a row or begins at a
// multiple of its 512 columns.
template <class Real>
const Real* read_bits(const View& view, const Tile& tile, Real* buffer) {
  uint8_t pixels[tile_elements + 7];
  for (int64_t r = 0; r < tile.rows; ++r) {
    const uint8_t* from = static_cast<const uint8_t*>(view.data) + (tile.row + r) * view.row + tile.col / 8;
    for (int64_t c = 0; c < tile.cols; c += 8) {
      const uint64_t eight = bytes_of_bits(from[c / 8]);
      std::memcpy(pixels + c, &eight, sizeof eight);
    }
    Real* to = buffer + r * tile.cols;
    for (int64_t c = 0; c < tile.cols; ++c) to[c] = static_cast<Real>(pixels[c]);
  }
  return buffer;
}

// The target's tile in the compute type: a pointer into the tensor if it is stored that way, otherwise the buffer.
template <class Real>
const Real* read_target(const LikelihoodProblem& p, const Tile& tile, Real* buffer) {
  const auto widened = [](auto x) { return static_cast<Real>(widen(x)); };
  switch (p.pixels) {
    case Pixels::float16: return read<Real, Half>(p, p.target, tile, buffer, widened);
    case Pixels::bfloat16: return read<Real, BFloat16>(p, p.target, tile, buffer, widened);
    case Pixels::float32:
      if constexpr (sizeof(Real) == sizeof(float)) return load<float>(p, p.target, tile, buffer);
      return read<Real, float>(p, p.target, tile, buffer, widened);
    case Pixels::float64: return read<Real, double>(p, p.target, tile, buffer, widened);
    case Pixels::uint8:
      return read<Real, uint8_t>(p, p.target, tile, buffer, [](uint8_t b) {
        if constexpr (sizeof(Real) == sizeof(float))
          return pixel(b);
        else
          return b / 255.0;
      });
    case Pixels::boolean:
      return read<Real, uint8_t>(p, p.target, tile, buffer, [](uint8_t b) { return static_cast<Real>(b); });
    case Pixels::bits: return read_bits(p.target, tile, buffer);
  }
  return buffer;
}

// The CPU fetches a row of its own accord, but not far enough ahead to keep the arithmetic from waiting (a fifth of the
// time of a Bernoulli NLL whose tensors lie outside L2, AVX-512).
constexpr int64_t tiles_ahead = 3;

template <class T>
void prefetch_inputs(const LikelihoodProblem& p, const Tile& tile) {
  prefetch<T>(p, p.decoded, tile);
  switch (p.pixels) {
    case Pixels::float16:
    case Pixels::bfloat16: return prefetch<BFloat16>(p, p.target, tile);
    case Pixels::float32: return prefetch<float>(p, p.target, tile);
    case Pixels::float64: return prefetch<double>(p, p.target, tile);
    case Pixels::uint8:
    case Pixels::boolean: return prefetch<uint8_t>(p, p.target, tile);
    case Pixels::bits: return;  // a tile is one line
  }
}

template <class Real>
using Elements = void (*)(int64_t n, const Real* x, const Real* t, Width<Real> width, Real factor, Real* nll,
                          Real* grad);

// Computes the exponentials in a loop of their own. Two short unrolled loops let the CPU overlap elements; one loop
// with a long chain of dependent operations leaves it waiting (0.74 instead of 1.05 ns per element, AVX2 on Zen 3).
template <class Real>
void decays(int64_t n, const Real* __restrict x, Real* __restrict e) {
  const ExponentRange range = variable_range();
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; ++i) e[i] = decay(x[i], range);
}

template <Likelihood likelihood, bool want_grad, class Real>
void elements(int64_t n, const Real* __restrict x, const Real* __restrict t, Width<Real> width, Real factor,
              Real* __restrict nll, Real* __restrict grad) {
  Real e[likelihood == Likelihood::bernoulli ? tile_elements : 1];
  if constexpr (likelihood == Likelihood::bernoulli) decays(n, x, e);
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; ++i) {
    Nll<Real> element;
    if constexpr (likelihood == Likelihood::bernoulli)
      element = bernoulli(x[i], t[i], e[i]);
    else
      element = element_nll<likelihood>(x[i], t[i], width);
    nll[i] = element.nll;
    if constexpr (want_grad) grad[i] = factor * element.grad;
  }
}

template <bool want_grad, class Real>
Elements<Real> choose_elements(Likelihood likelihood) {
  switch (likelihood) {
    case Likelihood::bernoulli: return elements<Likelihood::bernoulli, want_grad, Real>;
    case Likelihood::gaussian: return elements<Likelihood::gaussian, want_grad, Real>;
    default: return elements<Likelihood::laplace, want_grad, Real>;
  }
}

template <class T>
void run_tiles(const LikelihoodProblem& p, int64_t first_tile, int64_t last_tile) {
  using Real = Compute<T>;
  const LikelihoodPartition partition(p.rows, p.cols());
  const Width<double> exact = width_of(p.likelihood, p.scale);
  const Width<Real> width = {static_cast<Real>(exact.inverse), static_cast<Real>(exact.constant)};
  const bool one_factor = p.grad_nll.row == 0 && p.grad_nll.outer == 0 && (p.cols() == 1 || p.grad_nll.inner == 0);
  Real factor = static_cast<Real>(p.grad_scale);
  if (p.grad_nll.data && one_factor) factor *= *static_cast<const Real*>(p.grad_nll.data);
  const auto compute =
      p.grad.data ? choose_elements<true, Real>(p.likelihood) : choose_elements<false, Real>(p.likelihood);
  Real decoded_buffer[tile_elements], target_buffer[tile_elements], nll[tile_elements], grad_buffer[tile_elements];
  Real grad_nll_buffer[tile_elements];
  for (int64_t number = first_tile; number < last_tile; ++number) {
    const Tile tile = tile_at(p, partition, number);
    if (number + tiles_ahead < last_tile) prefetch_inputs<T>(p, tile_at(p, partition, number + tiles_ahead));
    const Real* x = load<T>(p, p.decoded, tile, decoded_buffer);
    const Real* t = read_target(p, tile, target_buffer);
    Real* grad = p.grad.data ? destination<T>(p, p.grad, tile, grad_buffer) : grad_buffer;
    compute(tile.size(), x, t, width, factor, nll, grad);
    if (p.grad_nll.data && !one_factor) {
      const Real* each = load<Real>(p, p.grad_nll, tile, grad_nll_buffer);
      for (int64_t i = 0; i < tile.size(); ++i) grad[i] *= each[i];
    }
    store<T>(p, p.grad, tile, grad, grad_buffer);
    store<Real>(p, p.nll, tile, nll, nll);
    if (p.partials)
      for (int64_t r = 0; r < tile.rows; ++r)
        p.partials[(tile.row + r) * partition.panels + number % partition.panels] =
            row_sum(nll + r * tile.cols, tile.cols);
  }
}

void run(const LikelihoodProblem& p, int64_t first_tile, int64_t last_tile) {
  switch (p.dtype) {
    case DType::float16: return run_tiles<Half>(p, first_tile, last_tile);
    case DType::bfloat16: return run_tiles<BFloat16>(p, first_tile, last_tile);
    case DType::float32: return run_tiles<float>(p, first_tile, last_tile);
    case DType::float64: return run_tiles<double>(p, first_tile, last_tile);
  }
}

}  // namespace

extern const LikelihoodKernels likelihood_kernels = {run};

}  // namespace betavae_fast::BVF_ISA
