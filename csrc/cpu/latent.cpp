// The latent op, compiled once per instruction set: BVF_ISA names it, the compiler's flags set it.

#include "latent.h"

#include "../include/latent.h"
#include "normals.h"
#include "sums.h"
#include "tiles.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t tile_elements = LatentPartition::tile_elements;

Tile tile_at(const LatentProblem& p, const LatentPartition& cut, int64_t row, int64_t last_row, int64_t panel) {
  const int64_t col = panel * cut.tile_cols, cols = p.cols();
  const int64_t rows_left = last_row - row, cols_left = cols - col;
  return {row, rows_left < cut.tile_rows ? rows_left : cut.tile_rows, col,
          cols_left < cut.tile_cols ? cols_left : cut.tile_cols};
}

// The tile's noise, given or drawn.
template <class T>
class Noise {
 public:
  explicit Noise(const LatentProblem& p) : p_(p), key_(p.key) {}

  const Compute<T>* tile(const Tile& tile) {
    if (p_.noise.data) return load<T>(p_, p_.noise, tile, buffer_);
    const uint64_t first = static_cast<uint64_t>(p_.first_row + tile.row) * static_cast<uint64_t>(p_.cols()) +
                           static_cast<uint64_t>(tile.col);
    const float* normals = normals_.fill(key_, first, tile.size());
    if constexpr (sizeof(Compute<T>) == sizeof(float)) {
      return normals;
    } else {
      for (int64_t i = 0; i < tile.size(); ++i) buffer_[i] = normals[i];
      return buffer_;
    }
  }

 private:
  const LatentProblem& p_;
  KeySchedule key_;
  NormalBuffer<tile_elements> normals_;
  Compute<T> buffer_[tile_elements];
};

// The log-variances of a strip, clamped and reduced. A strip at a time, so that the reduced values stay near.
constexpr int64_t strip_elements = 128;

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
void forward_tile(int64_t n, const Real* mu, const Real* logvar, const Real* eps, Real lo, Real hi, Real* z,
                  Real* element_kl) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, lo, hi);
    forward_strip<Real, want_z, want_kl>(count, mu + at, strip, eps + at, z + at, element_kl + at);
  }
}

template <class T, bool want_z, bool want_kl>
void forward_item(const LatentForward& p, const LatentPartition& cut, int64_t item) {
  using Real = Compute<T>;
  const int64_t panel = item % cut.panels, first_row = item / cut.panels * cut.item_rows, cols = p.cols();
  const int64_t last_row = first_row + cut.item_rows < p.rows ? first_row + cut.item_rows : p.rows;
  const Real lo = static_cast<Real>(p.logvar_min), hi = static_cast<Real>(p.logvar_max);
  Real mu_buffer[tile_elements], logvar_buffer[tile_elements], z_buffer[tile_elements], kl_buffer[tile_elements];
  Real sums[tile_elements] = {};
  Noise<T> noise(p);
  for (int64_t row = first_row; row < last_row; row += cut.tile_rows) {
    const Tile tile = tile_at(p, cut, row, last_row, panel);
    if (row + cut.tile_rows < last_row) {
      const Tile next = tile_at(p, cut, row + cut.tile_rows, last_row, panel);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
    }
    const Real* mu = load<T>(p, p.mu, tile, mu_buffer);
    const Real* logvar = load<T>(p, p.logvar, tile, logvar_buffer);
    const Real* eps = want_z ? noise.tile(tile) : nullptr;
    Real* z = want_z ? destination<T>(p, p.z, tile, z_buffer) : nullptr;
    forward_tile<Real, want_z, want_kl>(tile.size(), mu, logvar, eps, lo, hi, z, kl_buffer);
    if constexpr (want_z) store<T>(p, p.z, tile, z, z_buffer);
    if constexpr (want_kl) {
      switch (p.reduction) {
        case KlReduction::none: store<Real>(p, p.kl, tile, kl_buffer, kl_buffer); break;
        case KlReduction::sample:
          for (int64_t r = 0; r < tile.rows; ++r)
            p.partial[(tile.row + r) * cut.panels + panel] = row_sum(kl_buffer + r * tile.cols, tile.cols);
          break;
        default:
          for (int64_t i = 0; i < tile.size(); ++i) sums[i] += kl_buffer[i];
      }
    }
  }
  if constexpr (want_kl) {
    if (p.reduction == KlReduction::dim) {
      const Tile tile = tile_at(p, cut, first_row, last_row, panel);
      double* out = p.partial + item / cut.panels * cols + tile.col;
      for (int64_t c = 0; c < tile.cols; ++c) out[c] = sums[c];
      for (int64_t r = 1; r < tile.rows; ++r)
        for (int64_t c = 0; c < tile.cols; ++c) out[c] += sums[r * tile.cols + c];
    } else if (p.reduction == KlReduction::batchmean || p.reduction == KlReduction::sum) {
      p.partial[item] = row_sum(sums, tile_elements);
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
void backward_tile(int64_t n, const Real* mu, const Real* logvar, const Real* eps, const Real* grad_z, const Real* grad_kl,
                   Real lo, Real hi, Real* grad_mu, Real* grad_logvar) {
  Strip<Real> strip;
  for (int64_t at = 0; at < n; at += strip_elements) {
    const int64_t count = n - at < strip_elements ? n - at : strip_elements;
    strip.reduce_all(count, logvar + at, lo, hi);
    backward_strip<Real, has_grad_z, has_grad_kl>(count, mu + at, logvar + at, strip, eps + at, grad_z + at, grad_kl + at,
                                                  lo, hi, grad_mu + at, grad_logvar + at);
  }
}

template <class T, bool has_grad_z, bool has_grad_kl>
void backward_item(const LatentBackward& p, const LatentPartition& cut, int64_t item) {
  using Real = Compute<T>;
  const int64_t panel = item % cut.panels, first_row = item / cut.panels * cut.item_rows;
  const int64_t last_row = first_row + cut.item_rows < p.rows ? first_row + cut.item_rows : p.rows;
  const Real lo = static_cast<Real>(p.logvar_min), hi = static_cast<Real>(p.logvar_max);
  const Real kl_scale = static_cast<Real>(p.kl_scale);
  Real mu_buffer[tile_elements], logvar_buffer[tile_elements], grad_z_buffer[tile_elements];
  Real kl_raw[tile_elements], grad_kl[tile_elements];
  Real grad_mu_buffer[tile_elements], grad_logvar_buffer[tile_elements];
  Noise<T> noise(p);
  for (int64_t row = first_row; row < last_row; row += cut.tile_rows) {
    const Tile tile = tile_at(p, cut, row, last_row, panel);
    if (row + cut.tile_rows < last_row) {
      const Tile next = tile_at(p, cut, row + cut.tile_rows, last_row, panel);
      prefetch<T>(p, p.mu, next);
      prefetch<T>(p, p.logvar, next);
      prefetch<T>(p, p.grad_z, next);
    }
    const Real* mu = load<T>(p, p.mu, tile, mu_buffer);
    const Real* logvar = load<T>(p, p.logvar, tile, logvar_buffer);
    const Real* eps = nullptr;
    const Real* grad_z = nullptr;
    if constexpr (has_grad_z) {
      grad_z = load<T>(p, p.grad_z, tile, grad_z_buffer);
      // Only the gradient of log sigma^2 meets the noise: where it is not wanted, any numbers serve.
      eps = p.grad_logvar.data ? noise.tile(tile) : grad_z;
    }
    if constexpr (has_grad_kl) {
      // A gradient per dim, or one for all, is the same in every tile of the item.
      if (p.grad_kl.row != 0 || row == first_row) {
        const Real* raw = load<Real>(p, p.grad_kl, tile, kl_raw);
        for (int64_t i = 0; i < tile.size(); ++i) grad_kl[i] = kl_scale * raw[i];
      }
    }
    Real* grad_mu = destination<T>(p, p.grad_mu, tile, grad_mu_buffer);
    Real* grad_logvar = destination<T>(p, p.grad_logvar, tile, grad_logvar_buffer);
    backward_tile<Real, has_grad_z, has_grad_kl>(tile.size(), mu, logvar, eps, grad_z, grad_kl, lo, hi, grad_mu,
                                                 grad_logvar);
    store<T>(p, p.grad_mu, tile, grad_mu, grad_mu_buffer);
    store<T>(p, p.grad_logvar, tile, grad_logvar, grad_logvar_buffer);
  }
}

template <class T>
void forward_items(const LatentForward& p, int64_t first_item, int64_t last_item) {
  const LatentPartition cut(p.rows, p.cols());
  const bool want_kl = p.partial != nullptr || p.kl.data != nullptr;
  const auto run = !p.z.data ? forward_item<T, false, true> : want_kl ? forward_item<T, true, true> : forward_item<T, true, false>;
  for (int64_t item = first_item; item < last_item; ++item) run(p, cut, item);
}

template <class T>
void backward_items(const LatentBackward& p, int64_t first_item, int64_t last_item) {
  const LatentPartition cut(p.rows, p.cols());
  const auto run = !p.grad_z.data    ? backward_item<T, false, true>
                   : p.grad_kl.data ? backward_item<T, true, true>
                                    : backward_item<T, true, false>;
  for (int64_t item = first_item; item < last_item; ++item) run(p, cut, item);
}

void forward(const LatentForward& p, int64_t first_item, int64_t last_item) {
  switch (p.dtype) {
    case DType::float16: return forward_items<Half>(p, first_item, last_item);
    case DType::bfloat16: return forward_items<BFloat16>(p, first_item, last_item);
    case DType::float32: return forward_items<float>(p, first_item, last_item);
    case DType::float64: return forward_items<double>(p, first_item, last_item);
  }
}

void backward(const LatentBackward& p, int64_t first_item, int64_t last_item) {
  switch (p.dtype) {
    case DType::float16: return backward_items<Half>(p, first_item, last_item);
    case DType::bfloat16: return backward_items<BFloat16>(p, first_item, last_item);
    case DType::float32: return backward_items<float>(p, first_item, last_item);
    case DType::float64: return backward_items<double>(p, first_item, last_item);
  }
}

}  // namespace

extern const LatentKernels latent_kernels = {forward, backward};

}  // namespace betavae_fast::BVF_ISA
