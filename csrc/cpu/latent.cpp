// The latent op's kernels, compiled once per instruction set: BVF_ISA names the set, and the compiler's flags select
// it.

#include "latent.h"

#include <algorithm>

#include "../include/latent.h"
#include "normals.h"
#include "sums.h"
#include "tiles.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t tile_elements = LatentPartition::tile_elements;

// A strip is the elements that one inner loop takes. A block is the part of a tile that is brought into L1: the whole
// tile if there is one channel, otherwise one strip of each channel.
constexpr int64_t strip_elements = 128;
constexpr int64_t most_channels = LatentWork::most_channels;
static_assert(tile_elements % strip_elements == 0 && most_channels * strip_elements <= most_narrow);

// The elements of a block. The kernel for one channel is compiled separately, with smaller buffers that stay in L1 (5%
// faster in bfloat16).
template <bool several>
constexpr int64_t block_elements = several ? most_channels * strip_elements : tile_elements;
template <bool several>
constexpr int64_t all_tiles = (several ? most_channels : 1) * tile_elements;

Tile tile_at(const LatentProblem& p, const LatentPartition& cut, const LatentWork::Unit& unit, int64_t row) {
  const int64_t col = unit.panel * cut.tile_cols, cols = p.cols();
  const int64_t rows_left = unit.last_row - row, cols_left = cols - col;
  return {row, rows_left < cut.tile_rows ? rows_left : cut.tile_rows, col,
          cols_left < cut.tile_cols ? cols_left : cut.tile_cols, unit.channels};
}

// The number of columns in each block of a tile.
template <bool several>
int64_t block_cols(const Tile& tile) {
  return several ? strip_elements : tile.cols;
}

template <bool several>
Tile block_at(const Tile& tile, int64_t at) {
  return {tile.row, tile.rows, tile.col + at, block_cols<several>(tile), tile.channels};
}

// The noise of a block, either given by the caller or drawn from the key.
template <class T, bool several>
class Noise {
 public:
  explicit Noise(const LatentProblem& p) : p_(p), key_(p.key) {}

  void start(const Tile& block) {
    block_ = block;
    if (p_.noise.data) given_ = load<T>(p_, p_.noise, block, buffer_);
  }

  // The noise of one channel. The pointer is valid until the next call.
  const Compute<T>* channel(int64_t channel) {
    const int64_t count = block_.rows * block_.cols;
    if (given_) return given_ + channel * count;
    const uint64_t first = static_cast<uint64_t>(p_.first_row + block_.row) * static_cast<uint64_t>(p_.cols()) +
                           static_cast<uint64_t>(block_.col + channel * p_.inner);
    const float* normals = normals_.fill(key_, first, count);
    if constexpr (sizeof(Compute<T>) == sizeof(float)) {
      return normals;
    } else {
      for (int64_t i = 0; i < count; ++i) buffer_[i] = normals[i];
      return buffer_;
    }
  }

 private:
  const LatentProblem& p_;
  KeySchedule key_;
  Tile block_{};
  const Compute<T>* given_ = nullptr;
  NormalBuffer<tile_elements> normals_;
  Compute<T> buffer_[block_elements<several>];
};

// The clamped and reduced log-variances of one strip, few enough to stay in L1.
template <class Real>
struct Strip {
  Real half[strip_elements], r[strip_elements], scale[strip_elements];

  void reduce_all(int64_t n, const Real* __restrict logvar, Real lo, Real hi) {
    for (int64_t i = 0; i < n; ++i) {
      const Reduced<Real> x = reduce(clamp_(logvar[i], lo, hi));
      half[i] = x.x;
      r[i] = x.r;
      scale[i] = x.scale;
    }
  }
  Reduced<Real> operator[](int64_t i) const { return {half[i], r[i], scale[i]}; }
};

template <class Real, bool want_z, bool want_kl>
void forward_strip(int64_t n, const Real* __restrict mu, const Strip<Real>& strip, const Real* __restrict eps,
                   Real* __restrict z, Real* __restrict element_kl) {
  for (int64_t i = 0; i < n; ++i) {
    const Spread<Real> s = spread(strip[i]);
    if constexpr (want_z) z[i] = sample(mu[i], s, eps[i]);
    if constexpr (want_kl) element_kl[i] = kl(mu[i], s);
  }
}

template <class Real, bool want_z, bool want_kl>
void forward_run(int64_t n, const Real* mu, const Real* logvar, const Real* eps, Real lo, Real hi, Real* z,
                 Real* element_kl) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, lo, hi);
    forward_strip<Real, want_z, want_kl>(count, mu + at, strip, eps + at, z + at, element_kl + at);
  }
}

template <class T, bool several, bool want_z, bool want_kl>
void forward_unit(const LatentForward& p, const LatentPartition& cut, const LatentWork& work, int64_t index) {
  using Real = Compute<T>;
  const LatentWork::Unit unit = work[index];
  const Real lo = static_cast<Real>(p.logvar_min), hi = static_cast<Real>(p.logvar_max);
  Real mu_buffer[block_elements<several>], logvar_buffer[block_elements<several>], z_buffer[block_elements<several>];
  Real kl[all_tiles<several>], sums[all_tiles<several>];
  const int64_t channels = several ? unit.channels : 1;
  std::fill_n(sums, channels * tile_elements, Real(0));
  Noise<T, several> noise(p);
  for (int64_t row = unit.first_row; row < unit.last_row; row += cut.tile_rows) {
    const Tile tile = tile_at(p, cut, unit, row);
    if (row + cut.tile_rows < unit.last_row) {
      const Tile next = tile_at(p, cut, unit, row + cut.tile_rows);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
    }
    for (int64_t at = 0; at < tile.cols; at += block_cols<several>(tile)) {
      const Tile block = block_at<several>(tile, at);
      const int64_t count = block.rows * block.cols;
      const Real* mu = load<T>(p, p.mu, block, mu_buffer);
      const Real* logvar = load<T>(p, p.logvar, block, logvar_buffer);
      Real* z = want_z ? destination<T>(p, p.z, block, z_buffer) : nullptr;
      if constexpr (want_z) noise.start(block);
      for (int64_t c = 0; c < channels; ++c) {
        const Real* eps = want_z ? noise.channel(c) : nullptr;
        forward_run<Real, want_z, want_kl>(count, mu + c * count, logvar + c * count, eps, lo, hi, z + c * count,
                                           kl + c * tile_elements + at);
      }
      if constexpr (want_z) store<T>(p, p.z, block, z, z_buffer);
    }
    if constexpr (want_kl) {
      switch (p.reduction) {
        case Reduction::none: store<Real>(p, p.kl, tile, kl, kl); break;
        case Reduction::sample:
          for (int64_t r = 0; r < tile.rows; ++r)
            for (int64_t c = 0; c < channels; ++c)
              p.partial[(tile.row + r) * cut.panels + unit.panel + c * work.apart] =
                  row_sum(kl + (r + c) * tile.cols, tile.cols);
          break;
        default:
          for (int64_t i = 0; i < tile.size(); ++i) sums[i] += kl[i];
      }
    }
  }
  if constexpr (want_kl) {
    const int64_t item_row = unit.first_row / cut.item_rows;
    const Tile tile = tile_at(p, cut, unit, unit.first_row);
    for (int64_t c = 0; c < channels; ++c) {
      const Real* of_channel = sums + c * tile_elements;
      if (p.reduction == Reduction::dim) {
        double* out = p.partial + item_row * p.cols() + tile.col + c * p.inner;
        for (int64_t i = 0; i < tile.cols; ++i) out[i] = of_channel[i];
        for (int64_t r = 1; r < tile.rows; ++r)
          for (int64_t i = 0; i < tile.cols; ++i) out[i] += of_channel[r * tile.cols + i];
      } else if (p.reduction == Reduction::batchmean || p.reduction == Reduction::sum) {
        p.partial[item_row * cut.panels + unit.panel + c * work.apart] = row_sum(of_channel, tile_elements);
      }
    }
  }
}

template <class Real, bool has_grad_z, bool has_grad_kl>
void backward_strip(int64_t n, const Real* __restrict mu, const Real* __restrict logvar, const Strip<Real>& strip,
                    const Real* __restrict eps, const Real* __restrict grad_z, const Real* __restrict grad_kl, Real lo,
                    Real hi, Real* __restrict grad_mu, Real* __restrict grad_logvar) {
  for (int64_t i = 0; i < n; ++i) {
    const Spread<Real> s = relevant<has_grad_z, has_grad_kl>(spread(strip[i]));
    const LatentGrad<Real> g = latent_grad(mu[i], s, has_grad_z ? eps[i] : Real(0), has_grad_z ? grad_z[i] : Real(0),
                                           has_grad_kl ? grad_kl[i] : Real(0));
    grad_mu[i] = g.mu;
    grad_logvar[i] = logvar[i] < lo || logvar[i] > hi ? Real(0) : g.logvar;
  }
}

template <class Real, bool has_grad_z, bool has_grad_kl>
void backward_run(int64_t n, const Real* mu, const Real* logvar, const Real* eps, const Real* grad_z,
                  const Real* grad_kl, Real lo, Real hi, Real* grad_mu, Real* grad_logvar) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, lo, hi);
    backward_strip<Real, has_grad_z, has_grad_kl>(count, mu + at, logvar + at, strip, eps + at, grad_z + at,
                                                  grad_kl + at, lo, hi, grad_mu + at, grad_logvar + at);
  }
}

template <class T, bool several, bool has_grad_z, bool has_grad_kl>
void backward_unit(const LatentBackward& p, const LatentPartition& cut, const LatentWork& work, int64_t index) {
  using Real = Compute<T>;
  const LatentWork::Unit unit = work[index];
  const Real lo = static_cast<Real>(p.logvar_min), hi = static_cast<Real>(p.logvar_max);
  const Real kl_scale = static_cast<Real>(p.kl_scale);
  Real mu_buffer[block_elements<several>], logvar_buffer[block_elements<several>],
      grad_z_buffer[block_elements<several>];
  Real kl_raw[block_elements<several>], grad_kl[block_elements<several>];
  Real grad_mu_buffer[block_elements<several>], grad_logvar_buffer[block_elements<several>];
  const int64_t channels = several ? unit.channels : 1;
  Noise<T, several> noise(p);
  for (int64_t row = unit.first_row; row < unit.last_row; row += cut.tile_rows) {
    const Tile tile = tile_at(p, cut, unit, row);
    if (row + cut.tile_rows < unit.last_row) {
      const Tile next = tile_at(p, cut, unit, row + cut.tile_rows);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
      prefetch<T>(p, p.grad_z, next);
    }
    for (int64_t at = 0; at < tile.cols; at += block_cols<several>(tile)) {
      const Tile block = block_at<several>(tile, at);
      const int64_t count = block.rows * block.cols;
      const Real* mu = load<T>(p, p.mu, block, mu_buffer);
      const Real* logvar = load<T>(p, p.logvar, block, logvar_buffer);
      const Real* grad_z = has_grad_z ? load<T>(p, p.grad_z, block, grad_z_buffer) : nullptr;
      // The noise is needed only for the gradient of log sigma^2. If that is not wanted, any numbers can take its
      // place.
      const bool noisy = has_grad_z && p.grad_logvar.data != nullptr;
      if (noisy) noise.start(block);
      // A KL gradient without a row stride is the same for all tiles of a unit, so it is loaded once, unless a tile has
      // several blocks.
      if (has_grad_kl && (p.grad_kl.row != 0 || row == unit.first_row || block.cols < tile.cols)) {
        const Real* raw = load<Real>(p, p.grad_kl, block, kl_raw);
        for (int64_t i = 0; i < block.size(); ++i) grad_kl[i] = kl_scale * raw[i];
      }
      Real* grad_mu = destination<T>(p, p.grad_mu, block, grad_mu_buffer);
      Real* grad_logvar = destination<T>(p, p.grad_logvar, block, grad_logvar_buffer);
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t from = c * count;
        const Real* eps = noisy ? noise.channel(c) : grad_z + from;
        backward_run<Real, has_grad_z, has_grad_kl>(count, mu + from, logvar + from, eps, grad_z + from, grad_kl + from,
                                                    lo, hi, grad_mu + from, grad_logvar + from);
      }
      store<T>(p, p.grad_mu, block, grad_mu, grad_mu_buffer);
      store<T>(p, p.grad_logvar, block, grad_logvar, grad_logvar_buffer);
    }
  }
}

template <class T, bool several>
void forward_units(const LatentForward& p, const LatentPartition& cut, const LatentWork& work, int64_t first,
                   int64_t last) {
  const bool want_kl = p.partial != nullptr || p.kl.data != nullptr;
  const auto run = !p.z.data ? forward_unit<T, several, false, true>
                   : want_kl ? forward_unit<T, several, true, true>
                             : forward_unit<T, several, true, false>;
  for (int64_t unit = first; unit < last; ++unit) run(p, cut, work, unit);
}

template <class T, bool several>
void backward_units(const LatentBackward& p, const LatentPartition& cut, const LatentWork& work, int64_t first,
                    int64_t last) {
  const auto run = !p.grad_z.data   ? backward_unit<T, several, false, true>
                   : p.grad_kl.data ? backward_unit<T, several, true, true>
                                    : backward_unit<T, several, true, false>;
  for (int64_t unit = first; unit < last; ++unit) run(p, cut, work, unit);
}

template <class T>
void forward_of(const LatentForward& p, const LatentPartition& cut, const LatentWork& work, int64_t first,
                int64_t last) {
  const auto run = work.channels == 1 ? forward_units<T, false> : forward_units<T, true>;
  run(p, cut, work, first, last);
}

void forward(const LatentForward& p, const LatentPartition& cut, const LatentWork& work, int64_t first, int64_t last) {
  switch (p.dtype) {
    case DType::float16: return forward_of<Half>(p, cut, work, first, last);
    case DType::bfloat16: return forward_of<BFloat16>(p, cut, work, first, last);
    case DType::float32: return forward_of<float>(p, cut, work, first, last);
    case DType::float64: return forward_of<double>(p, cut, work, first, last);
  }
}

template <class T>
void backward_of(const LatentBackward& p, const LatentPartition& cut, const LatentWork& work, int64_t first,
                 int64_t last) {
  const auto run = work.channels == 1 ? backward_units<T, false> : backward_units<T, true>;
  run(p, cut, work, first, last);
}

void backward(const LatentBackward& p, const LatentPartition& cut, const LatentWork& work, int64_t first,
              int64_t last) {
  switch (p.dtype) {
    case DType::float16: return backward_of<Half>(p, cut, work, first, last);
    case DType::bfloat16: return backward_of<BFloat16>(p, cut, work, first, last);
    case DType::float32: return backward_of<float>(p, cut, work, first, last);
    case DType::float64: return backward_of<double>(p, cut, work, first, last);
  }
}

}  // namespace

extern const LatentKernels latent_kernels = {forward, backward};

}  // namespace betavae_fast::BVF_ISA
