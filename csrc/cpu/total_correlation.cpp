// The aggregated posterior's log-densities, compiled once per instruction set: BVF_ISA names it, the compiler's flags set it.

#include "total_correlation.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "../include/mixture.h"
#include "vectors.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t lanes = Pairs::lanes, tile = Pairs::tile;

// A block's 16 lanes are this many vectors.
template <class Real>
constexpr int64_t width = vector_bytes / sizeof(Real);
template <class Real>
constexpr int64_t vectors = lanes / width<Real>;

// As exp2_ of include/mixture.h.
inline Floats exp2_(Floats x) {
  constexpr float to_integer = 0x1.8000fep+23f;
  const Floats clamped = larger(Floats{} - 127.0f, x);
  const Floats shifted = clamped + to_integer, f = clamped - (shifted - to_integer), f2 = f * f;
  const Floats low = 0x1.ebf9bcp-3f * f + 0x1.62e42ap-1f, high = 0x1.3cea6ap-7f * f + 0x1.c6b74cp-5f;
  const Floats q = f2 * (f2 * 0x1.5bbcbap-10f + high) + low;
  const Integers scale = reinterpret_cast<Integers>(shifted) << 23;
  return reinterpret_cast<Floats>(scale) * (f * q + 1.0f);
}

inline Doubles exp2_(Doubles x) {
  for (int64_t k = 0; k < width<double>; ++k) x[k] = std::exp2(x[k]);
  return x;
}

// The channels' terms are added up in groups, and the groups then: one running sum of hundreds drifts.
constexpr int64_t dims_at_once = 16;

template <class Real>
void add_group(int64_t d, int64_t dims, Real* group, Real* total) {
  const bool complete = d % dims_at_once == dims_at_once - 1 || d == dims - 1;
  if (!complete || d < dims_at_once) return;
  for (int64_t i = 0; i < tile * lanes; ++i) total[i] += group[i], group[i] = 0;
}

template <class Real>
constexpr Real lowest = -std::numeric_limits<Real>::infinity();

// What is added to the terms of a tile's pairs that have a weight of their own; `any` says whether there is one.
template <class Real>
struct OwnWeights {
  Real of[tile * lanes];
  bool any = false;

  void set(const Mixture<Real>& p, int64_t block, int64_t first, int64_t count) {
    any = false;
    if (p.weights.own == 0 && p.weights.next == 0) return;
    for (int64_t k = 0; k < lanes; ++k) {
      const int64_t own = p.first_row + block * lanes + k;
      add(own - first, count, k, p.weights.own);
      add((own + 1 == p.pairs.posteriors ? 0 : own + 1) - first, count, k, p.weights.next);
    }
  }

 private:
  void add(int64_t j, int64_t count, int64_t lane, double weight) {
    if (j < 0 || j >= count) return;
    if (!any) std::memset(of, 0, sizeof of);
    any = true;
    of[j * lanes + lane] += static_cast<Real>(weight);
  }
};

template <class Real>
void add_weights(const OwnWeights<Real>& weights, int64_t count, Real* terms, Vector<Real>* highest) {
  for (int64_t v = 0; v < vectors<Real>; ++v) {
    highest[v] = Vector<Real>{} + lowest<Real>;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t at = j * lanes + v * width<Real>;
      const Vector<Real> term = load(terms + at) + load(weights.of + at);
      store(terms + at, term);
      highest[v] = larger(term, highest[v]);
    }
  }
}

inline void rescale_and_add(double* to, Floats grown, Floats part) {
  using Wide = double __attribute__((vector_size(2 * vector_bytes)));
  Wide sum;
  std::memcpy(&sum, to, sizeof sum);
  sum = sum * __builtin_convertvector(grown, Wide) + __builtin_convertvector(part, Wide);
  std::memcpy(to, &sum, sizeof sum);
}
inline void rescale_and_add(double* to, Doubles grown, Doubles part) { store(to, load(to) * grown + part); }

// A running maximum and the sum of 2^(term - maximum), for each lane (Milakov & Gimelshein 2018).
template <class Real>
struct LogSum {
  Real maximum[lanes];
  double sum[lanes];

  LogSum() {
    for (int64_t k = 0; k < lanes; ++k) maximum[k] = lowest<Real>, sum[k] = 0;
  }

  // `highest` is the terms' maximum in each lane; NaN is none, but makes the sum NaN.
  void add(const Real* terms, int64_t count, const Vector<Real>* highest) {
    for (int64_t v = 0; v < vectors<Real>; ++v) {
      const Vector<Real> before = load(maximum + v * width<Real>), now = larger(highest[v], before);
      const Vector<Real> base = now == lowest<Real> ? Vector<Real>{} : now;  // not infinity - infinity
      const Vector<Real> grown = exp2_(before - base);
      Vector<Real> part{};
      for (int64_t j = 0; j < count; ++j) part += exp2_(load(terms + j * lanes + v * width<Real>) - base);
      store(maximum + v * width<Real>, now);
      rescale_and_add(sum + v * width<Real>, grown, part);
    }
  }

  double value(int64_t k, double weight) const {
    return ln_2 * (static_cast<double>(maximum[k]) + std::log2(sum[k]) + weight);
  }
};

template <class Real>
void forward_block(const MixtureForward<Real>& p, int64_t block) {
  using V = Vector<Real>;
  const int64_t dims = p.pairs.dims;
  LogSum<Real> joint;
  std::unique_ptr<LogSum<Real>[]> marginals(new LogSum<Real>[static_cast<size_t>(dims)]);
  OwnWeights<Real> weights;
  Real terms[tile * lanes], together[tile * lanes], later[tile * lanes];
  V highest[vectors<Real>];
  for (int64_t first = 0; first < p.pairs.posteriors; first += tile) {
    const int64_t left = p.pairs.posteriors - first, count = left < tile ? left : tile;
    weights.set(p, block, first, count);
    std::memset(together, 0, sizeof together);
    std::memset(later, 0, sizeof later);
    for (int64_t d = 0; d < dims; ++d) {
      Real* const sums = d < dims_at_once ? together : later;
      V own[vectors<Real>];
      for (int64_t v = 0; v < vectors<Real>; ++v) {
        own[v] = load(p.z + (block * dims + d) * lanes + v * width<Real>);
        highest[v] = V{} + lowest<Real>;
      }
      for (int64_t j = 0; j < count; ++j) {
        const int64_t at = (first + j) * dims + d;
        const Real mu = p.mu[at], inverse = p.inverse_width[at], peak = p.peak[at];
        for (int64_t v = 0; v < vectors<Real>; ++v) {
          const int64_t to = j * lanes + v * width<Real>;
          const V t = (own[v] - mu) * inverse, term = peak - t * t;
          store(sums + to, load(sums + to) + term);
          highest[v] = larger(term, highest[v]);
          store(terms + to, term);
        }
      }
      if (weights.any) add_weights(weights, count, terms, highest);
      marginals[d].add(terms, count, highest);
      add_group(d, dims, later, together);
    }
    for (int64_t v = 0; v < vectors<Real>; ++v) {
      highest[v] = V{} + lowest<Real>;
      for (int64_t j = 0; j < count; ++j) highest[v] = larger(load(together + j * lanes + v * width<Real>), highest[v]);
    }
    if (weights.any) add_weights(weights, count, together, highest);
    joint.add(together, count, highest);
  }
  for (int64_t k = 0; k < lanes; ++k) {
    const int64_t row = block * lanes + k;
    if (row >= p.pairs.rows) break;
    p.joint[row] = joint.value(k, p.weights.all);
    for (int64_t d = 0; d < dims; ++d) p.marginals[row * dims + d] = marginals[d].value(k, p.weights.all);
  }
}

// Blocks that are taken through the dims together: their responsibilities, and one dim's sums, stay in L1.
constexpr int64_t group = 8;

// g_i p_ij of a block and a tile.
template <class Real>
void joint_gradients(const MixtureBackward<Real>& p, int64_t block, int64_t first, int64_t count,
                     const OwnWeights<Real>& weights, Real* result) {
  using V = Vector<Real>;
  const int64_t dims = p.pairs.dims;
  if (weights.any)
    std::memcpy(result, weights.of, sizeof weights.of);
  else
    std::memset(result, 0, sizeof weights.of);
  Real later[tile * lanes] = {};
  for (int64_t d = 0; d < dims; ++d) {
    Real* const sums = d < dims_at_once ? result : later;
    V own[vectors<Real>];
    for (int64_t v = 0; v < vectors<Real>; ++v) own[v] = load(p.z + (block * dims + d) * lanes + v * width<Real>);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t at = (first + j) * dims + d;
      const Real mu = p.mu[at], inverse = p.inverse_width[at], peak = p.peak[at];
      for (int64_t v = 0; v < vectors<Real>; ++v) {
        Real* to = sums + j * lanes + v * width<Real>;
        const V t = (own[v] - mu) * inverse;
        store(to, load(to) + (peak - t * t));
      }
    }
    add_group(d, dims, later, result);
  }
  for (int64_t v = 0; v < vectors<Real>; ++v) {
    const int64_t from = block * lanes + v * width<Real>;
    const V grad = load(p.grad_joint + from), minus = load(p.joint + from);
    for (int64_t j = 0; j < count; ++j) {
      Real* to = result + j * lanes + v * width<Real>;
      store(to, grad * exp2_(load(to) - minus));
    }
  }
}

// One dim's sums over the blocks, [j][lane]: of w, w t and w t^2.
template <class Real>
struct Moments {
  Real mass[tile * lanes], pull[tile * lanes], stretch[tile * lanes];
};

// One dim of a group of blocks and a tile: adds to the blocks' grad_z, which lie dims * lanes apart, and to the tile's sums.
// `weighted`: some pairs have a weight of their own.
template <bool weighted, class Real>
void add_gradients(const MixtureBackward<Real>& p, int64_t first_block, int64_t blocks, int64_t d, int64_t first, int64_t count,
                   const OwnWeights<Real>* weights, const Real (*joint)[tile * lanes], double* grad_z, Moments<Real>& sums) {
  using V = Vector<Real>;
  const int64_t dims = p.pairs.dims;
  for (int64_t v = 0; v < vectors<Real>; ++v) {
    V own[group], grad[group], minus[group], part[group] = {};
    for (int64_t g = 0; g < blocks; ++g) {
      const int64_t from = ((first_block + g) * dims + d) * lanes + v * width<Real>;
      own[g] = load(p.z + from);
      grad[g] = load(p.grad_marginals + from);
      minus[g] = load(p.marginals + from);
    }
    for (int64_t j = 0; j < count; ++j) {
      const int64_t at = (first + j) * dims + d, lane = j * lanes + v * width<Real>;
      const V mu = V{} + p.mu[at], inverse = V{} + p.inverse_width[at], peak = V{} + p.peak[at];
      V mass{}, pull{}, stretch{};
#pragma GCC unroll 4
      for (int64_t g = 0; g < blocks; ++g) {
        const V t = (own[g] - mu) * inverse;
        V term = peak - minus[g] - t * t;
        if (weighted && weights[g].any) term += load(weights[g].of + lane);
        const V w = grad[g] * exp2_(term) + load(joint[g] + lane), wt = w * t;
        part[g] += wt * inverse;
        mass += w;
        pull += wt;
        stretch += wt * t;
      }
      store(sums.mass + lane, load(sums.mass + lane) + mass);
      store(sums.pull + lane, load(sums.pull + lane) + pull);
      store(sums.stretch + lane, load(sums.stretch + lane) + stretch);
    }
    for (int64_t g = 0; g < blocks; ++g) add_to(grad_z + g * dims * lanes + v * width<Real>, part[g]);
  }
}

// One tile of posteriors against the blocks of one chunk.
template <class Real>
void backward_tile(const MixtureBackward<Real>& p, int64_t chunk, int64_t first, int64_t count, double* grad_z,
                   Moments<Real>* sums) {
  const int64_t dims = p.pairs.dims, first_block = chunk * p.pairs.chunk_blocks();
  const int64_t left = p.pairs.blocks() - first_block, blocks = left < p.pairs.chunk_blocks() ? left : p.pairs.chunk_blocks();
  Real joint[group][tile * lanes];
  OwnWeights<Real> weights[group];
  std::memset(static_cast<void*>(sums), 0, static_cast<size_t>(dims) * sizeof *sums);
  for (int64_t b = 0; b < blocks; b += group) {
    const int64_t together = blocks - b < group ? blocks - b : group;
    for (int64_t g = 0; g < together; ++g) {
      weights[g].set(p, first_block + b + g, first, count);
      joint_gradients(p, first_block + b + g, first, count, weights[g], joint[g]);
    }
    bool weighted = false;
    for (int64_t g = 0; g < together; ++g) weighted |= weights[g].any;
    const auto add = weighted ? add_gradients<true, Real> : add_gradients<false, Real>;
    for (int64_t d = 0; d < dims; ++d)
      add(p, first_block + b, together, d, first, count, weights, joint, grad_z + (b * dims + d) * lanes, sums[d]);
  }
}

template <class Real>
double lane_sum(const Real* x) {
  double sum = 0;
  for (int64_t k = 0; k < lanes; ++k) sum += static_cast<double>(x[k]);
  return sum;
}

template <class Real>
void backward_chunk(const MixtureBackward<Real>& p, int64_t chunk) {
  const int64_t dims = p.pairs.dims, posteriors = p.pairs.posteriors;
  std::unique_ptr<Moments<Real>[]> sums(new Moments<Real>[static_cast<size_t>(dims)]);
  std::unique_ptr<double[]> grad_z(new double[static_cast<size_t>(p.pairs.chunk_blocks() * dims * lanes)]());
  for (int64_t first = 0; first < posteriors; first += tile) {
    const int64_t count = posteriors - first < tile ? posteriors - first : tile;
    backward_tile(p, chunk, first, count, grad_z.get(), sums.get());
    for (int64_t j = 0; j < count; ++j)
      for (int64_t d = 0; d < dims; ++d) {
        const int64_t at = (chunk * posteriors + first + j) * dims + d, from = j * lanes;
        const double inverse = p.inverse_width[(first + j) * dims + d];
        p.grad_mu[at] = static_cast<Real>(lane_sum(sums[d].pull + from) * inverse / (k_scale * k_scale));
        p.grad_logvar[at] = static_cast<Real>(ln_2 * lane_sum(sums[d].stretch + from) - 0.5 * lane_sum(sums[d].mass + from));
      }
  }
  const int64_t first_row = chunk * p.pairs.chunk_blocks() * lanes;
  for (int64_t r = 0; r < p.pairs.chunk_blocks() * lanes && first_row + r < p.pairs.rows; ++r)
    for (int64_t d = 0; d < dims; ++d)
      p.grad_z[(first_row + r) * dims + d] =
          static_cast<Real>(-grad_z[(r / lanes * dims + d) * lanes + r % lanes] / (k_scale * k_scale));
}

template <class Real>
void forward(const MixtureForward<Real>& p, int64_t first_block, int64_t last_block) {
  for (int64_t block = first_block; block < last_block; ++block) forward_block(p, block);
}

template <class Real>
void backward(const MixtureBackward<Real>& p, int64_t first_chunk, int64_t last_chunk) {
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) backward_chunk(p, chunk);
}

}  // namespace

extern const TotalCorrelationKernels total_correlation_kernels = {{forward<float>, backward<float>},
                                                                  {forward<double>, backward<double>}};

}  // namespace betavae_fast::BVF_ISA
