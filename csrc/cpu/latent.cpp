// The latent op's kernels, compiled once per instruction set: BVF_ISA names the set, and the compiler's flags select
// it.

#include "latent.h"

#include <algorithm>

#include "../include/latent.h"
#include "exponents.h"
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

// The channels of a unit. The kernel for one channel is compiled separately, with smaller buffers that stay in L1 (5%
// faster in bfloat16).
enum class Channels { one, several };

// The results that forward computes, or the results whose gradients backward is given.
enum class Results { z, kl, z_and_kl };
constexpr bool with_z(Results results) { return results != Results::kl; }
constexpr bool with_kl(Results results) { return results != Results::z; }

// The elements of a block, and of a tile of each channel.
template <Channels channels>
constexpr int64_t block_elements = channels == Channels::one ? tile_elements : most_channels * strip_elements;
template <Channels channels>
constexpr int64_t all_tiles = (channels == Channels::one ? 1 : most_channels) * tile_elements;

Tile tile_at(const LatentProblem& p, const LatentPartition& partition, const LatentWork::Unit& unit, int64_t row) {
  const int64_t col = unit.panel * partition.tile_cols, cols = p.cols();
  const int64_t rows_left = unit.last_row - row, cols_left = cols - col;
  return {row, rows_left < partition.tile_rows ? rows_left : partition.tile_rows, col,
          cols_left < partition.tile_cols ? cols_left : partition.tile_cols, unit.channels};
}

// The number of columns in each block of a tile.
template <Channels channels>
int64_t block_cols(const Tile& tile) {
  return channels == Channels::one ? tile.cols : strip_elements;
}

template <Channels channels>
Tile block_at(const Tile& tile, int64_t at) {
  return {tile.row, tile.rows, tile.col + at, block_cols<channels>(tile), tile.channels};
}

// The noise of a block, either given by the caller or drawn from the key.
template <class T, Channels channels>
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
  Compute<T> buffer_[block_elements<channels>];
};

// The clamped and reduced log-variances of one strip, few enough to stay in L1.
template <class Real>
struct Strip {
  Real half[strip_elements], r[strip_elements], scale[strip_elements];

  void reduce_all(int64_t n, const Real* __restrict logvar, LatentSettings<Real> settings) {
    const ExponentRange range = variable_range();
    for (int64_t i = 0; i < n; ++i) {
      const Reduced<Real> x = reduce(clamp_(logvar[i], settings.logvar_min, settings.logvar_max), range);
      half[i] = x.x;
      r[i] = x.r;
      scale[i] = x.scale;
    }
  }
  Reduced<Real> operator[](int64_t i) const { return {half[i], r[i], scale[i]}; }
};

template <class Real, Results results>
void forward_strip(int64_t n, const Real* __restrict mu, const Strip<Real>& strip, const Real* __restrict eps,
                   Real* __restrict z, Real* __restrict element_kl) {
  for (int64_t i = 0; i < n; ++i) {
    const Spread<Real> s = spread(strip[i]);
    if constexpr (with_z(results)) z[i] = sample(mu[i], s, eps[i]);
    if constexpr (with_kl(results)) element_kl[i] = kl(mu[i], s);
  }
}

template <class Real, Results results>
void forward_run(int64_t n, const Real* mu, const Real* logvar, const Real* eps, LatentSettings<Real> settings, Real* z,
                 Real* element_kl) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, settings);
    forward_strip<Real, results>(count, mu + at, strip, eps + at, z + at, element_kl + at);
  }
}

template <class T, Channels channels, Results results>
void forward_unit(const LatentForward& p, const LatentPartition& partition, const LatentWork& work, int64_t index) {
  using Real = Compute<T>;
  constexpr bool want_z = with_z(results), want_kl = with_kl(results);
  const LatentWork::Unit unit = work[index];
  const LatentSettings<Real> settings = p.settings.to<Real>();
  Real mu_buffer[block_elements<channels>], logvar_buffer[block_elements<channels>], z_buffer[block_elements<channels>];
  Real kl[all_tiles<channels>], sums[all_tiles<channels>];
  const int64_t channel_count = channels == Channels::one ? 1 : unit.channels;
  std::fill_n(sums, channel_count * tile_elements, Real(0));
  Noise<T, channels> noise(p);
  for (int64_t row = unit.first_row; row < unit.last_row; row += partition.tile_rows) {
    const Tile tile = tile_at(p, partition, unit, row);
    if (row + partition.tile_rows < unit.last_row) {
      const Tile next = tile_at(p, partition, unit, row + partition.tile_rows);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
    }
    for (int64_t at = 0; at < tile.cols; at += block_cols<channels>(tile)) {
      const Tile block = block_at<channels>(tile, at);
      const int64_t count = block.rows * block.cols;
      const Real* mu = load<T>(p, p.mu, block, mu_buffer);
      const Real* logvar = load<T>(p, p.logvar, block, logvar_buffer);
      Real* z = want_z ? destination<T>(p, p.z, block, z_buffer) : nullptr;
      if constexpr (want_z) noise.start(block);
      for (int64_t c = 0; c < channel_count; ++c) {
        const Real* eps = want_z ? noise.channel(c) : nullptr;
        forward_run<Real, results>(count, mu + c * count, logvar + c * count, eps, settings, z + c * count,
                                   kl + c * tile_elements + at);
      }
      if constexpr (want_z) store<T>(p, p.z, block, z, z_buffer);
    }
    if constexpr (want_kl) {
      switch (p.reduction) {
        case Reduction::none: store<Real>(p, p.kl, tile, kl, kl); break;
        case Reduction::sample:
          for (int64_t r = 0; r < tile.rows; ++r)
            for (int64_t c = 0; c < channel_count; ++c)
              p.partials[(tile.row + r) * partition.panels + unit.panel + c * work.apart] =
                  row_sum(kl + (r + c) * tile.cols, tile.cols);
          break;
        default:
          for (int64_t i = 0; i < tile.size(); ++i) sums[i] += kl[i];
      }
    }
  }
  if constexpr (want_kl) {
    const int64_t item_row = unit.first_row / partition.item_rows;
    const Tile tile = tile_at(p, partition, unit, unit.first_row);
    for (int64_t c = 0; c < channel_count; ++c) {
      const Real* of_channel = sums + c * tile_elements;
      if (p.reduction == Reduction::dim) {
        double* out = p.partials + item_row * p.cols() + tile.col + c * p.inner;
        for (int64_t i = 0; i < tile.cols; ++i) out[i] = of_channel[i];
        for (int64_t r = 1; r < tile.rows; ++r)
          for (int64_t i = 0; i < tile.cols; ++i) out[i] += of_channel[r * tile.cols + i];
      } else if (p.reduction == Reduction::batchmean || p.reduction == Reduction::sum) {
        p.partials[item_row * partition.panels + unit.panel + c * work.apart] = row_sum(of_channel, tile_elements);
      }
    }
  }
}

template <class Real, Results results>
void backward_strip(int64_t n, const Real* __restrict mu, const Real* __restrict logvar, const Strip<Real>& strip,
                    const Real* __restrict eps, const Real* __restrict grad_z, const Real* __restrict grad_kl,
                    LatentSettings<Real> settings, Real* __restrict grad_mu, Real* __restrict grad_logvar) {
  constexpr bool has_grad_z = with_z(results), has_grad_kl = with_kl(results);
  for (int64_t i = 0; i < n; ++i) {
    const Spread<Real> s = relevant<has_grad_z, has_grad_kl>(spread(strip[i]));
    const LatentGrad<Real> g = latent_grad(mu[i], s, has_grad_z ? eps[i] : Real(0), has_grad_z ? grad_z[i] : Real(0),
                                           has_grad_kl ? grad_kl[i] : Real(0));
    grad_mu[i] = g.mu;
    grad_logvar[i] = logvar[i] < settings.logvar_min || logvar[i] > settings.logvar_max ? Real(0) : g.logvar;
  }
}

template <class Real, Results results>
void backward_run(int64_t n, const Real* mu, const Real* logvar, const Real* eps, const Real* grad_z,
                  const Real* grad_kl, LatentSettings<Real> settings, Real* grad_mu, Real* grad_logvar) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, settings);
    backward_strip<Real, results>(count, mu + at, logvar + at, strip, eps + at, grad_z + at, grad_kl + at, settings,
                                  grad_mu + at, grad_logvar + at);
  }
}

template <class T, Channels channels, Results results>
void backward_unit(const LatentBackward& p, const LatentPartition& partition, const LatentWork& work, int64_t index) {
  using Real = Compute<T>;
  constexpr bool has_grad_z = with_z(results), has_grad_kl = with_kl(results);
  const LatentWork::Unit unit = work[index];
  const LatentSettings<Real> settings = p.settings.to<Real>();
  const Real kl_scale = static_cast<Real>(p.kl_scale);
  Real mu_buffer[block_elements<channels>], logvar_buffer[block_elements<channels>],
      grad_z_buffer[block_elements<channels>];
  Real kl_raw[block_elements<channels>], grad_kl[block_elements<channels>];
  Real grad_mu_buffer[block_elements<channels>], grad_logvar_buffer[block_elements<channels>];
  const int64_t channel_count = channels == Channels::one ? 1 : unit.channels;
  Noise<T, channels> noise(p);
  for (int64_t row = unit.first_row; row < unit.last_row; row += partition.tile_rows) {
    const Tile tile = tile_at(p, partition, unit, row);
    if (row + partition.tile_rows < unit.last_row) {
      const Tile next = tile_at(p, partition, unit, row + partition.tile_rows);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
      prefetch<T>(p, p.grad_z, next);
    }
    for (int64_t at = 0; at < tile.cols; at += block_cols<channels>(tile)) {
      const Tile block = block_at<channels>(tile, at);
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
      for (int64_t c = 0; c < channel_count; ++c) {
        const int64_t from = c * count;
        const Real* eps = noisy ? noise.channel(c) : grad_z + from;
        backward_run<Real, results>(count, mu + from, logvar + from, eps, grad_z + from, grad_kl + from, settings,
                                    grad_mu + from, grad_logvar + from);
      }
      store<T>(p, p.grad_mu, block, grad_mu, grad_mu_buffer);
      store<T>(p, p.grad_logvar, block, grad_logvar, grad_logvar_buffer);
    }
  }
}

template <class T, Channels channels>
auto choose_unit(const LatentForward& p) {
  if (!p.z.data) return forward_unit<T, channels, Results::kl>;
  if (!p.partials && !p.kl.data) return forward_unit<T, channels, Results::z>;
  return forward_unit<T, channels, Results::z_and_kl>;
}

template <class T, Channels channels>
auto choose_unit(const LatentBackward& p) {
  if (!p.grad_z.data) return backward_unit<T, channels, Results::kl>;
  if (!p.grad_kl.data) return backward_unit<T, channels, Results::z>;
  return backward_unit<T, channels, Results::z_and_kl>;
}

template <class T, class Latent>
void run_units(const Latent& p, const LatentPartition& partition, const LatentWork& work, int64_t first, int64_t last) {
  const auto run_unit = work.channels == 1 ? choose_unit<T, Channels::one>(p) : choose_unit<T, Channels::several>(p);
  for (int64_t unit = first; unit < last; ++unit) run_unit(p, partition, work, unit);
}

template <class Latent>
void run(const Latent& p, const LatentPartition& partition, const LatentWork& work, int64_t first, int64_t last) {
  switch (p.dtype) {
    case DType::float16: return run_units<Half>(p, partition, work, first, last);
    case DType::bfloat16: return run_units<BFloat16>(p, partition, work, first, last);
    case DType::float32: return run_units<float>(p, partition, work, first, last);
    case DType::float64: return run_units<double>(p, partition, work, first, last);
  }
}

}  // namespace

extern const LatentKernels latent_kernels = {run<LatentForward>, run<LatentBackward>};

}  // namespace betavae_fast::BVF_ISA
