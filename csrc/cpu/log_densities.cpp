// The kernels of the aggregated posterior's log-densities, compiled once per instruction set: BVF_ISA names the set,
// and the compiler's flags select it.

#include "log_densities.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "../include/log_densities.h"
#include "powers.h"
#include "subnormals.h"
#include "vectors.h"

namespace betavae_fast::BVF_ISA {
namespace {

constexpr int64_t lanes = Pairs::lanes, tile = Pairs::tile, group = Pairs::group;

// The number of elements in a vector, and the number of vectors for a block's 16 lanes.
template <class Real>
constexpr int64_t width = vector_bytes / sizeof(Real);
template <class Real>
constexpr int64_t vectors = lanes / width<Real>;

// The dims' terms are added up in groups, and then the groups, because one running sum of hundreds of terms would lose
// accuracy.
constexpr int64_t dims_at_once = 16;

template <class Real>
struct JointTerms {
  alignas(64) Real of[tile * lanes] = {}, later[tile * lanes] = {};

  // The array to which the terms of dim d are added.
  Real* at(int64_t d) { return d < dims_at_once ? of : later; }

  void complete(int64_t d, int64_t dims) {
    const bool last = d % dims_at_once == dims_at_once - 1 || d == dims - 1;
    if (!last || d < dims_at_once) return;
    for (int64_t i = 0; i < tile * lanes; ++i) of[i] += later[i], later[i] = 0;
  }
};

// Forward and backward must round a term identically, otherwise responsibilities do not add up to 1.
template <class Real>
inline Vector<Real> term_of(Vector<Real> z, const Posteriors<Real>& posteriors, int64_t j) {
  const Vector<Real> t = (z - posteriors.mu[j]) * posteriors.inverse_width[j];
  return posteriors.peak[j] - t * t;
}

template <class Real>
constexpr Real lowest = -std::numeric_limits<Real>::infinity();

// The log2 weights that are added to the terms of those pairs of a tile that have a weight of their own. `any` tells
// whether there are such pairs.
template <class Real>
struct OwnWeights {
  alignas(64) Real of[tile * lanes];
  bool any = false;

  void set(const LogDensitiesProblem<Real>& p, int64_t block, int64_t first) {
    any = false;
    if (p.weights.own == 0 && p.weights.next == 0) return;
    for (int64_t k = 0; k < lanes; ++k) {
      const int64_t own = p.first_row + block * lanes + k;
      add(own - first, k, p.weights.own);
      add((own + 1 == p.pairs.posteriors ? 0 : own + 1) - first, k, p.weights.next);
    }
  }

 private:
  void add(int64_t j, int64_t lane, double weight) {
    if (j < 0 || j >= tile) return;
    if (!any) std::memset(of, 0, sizeof of);
    any = true;
    of[j * lanes + lane] += static_cast<Real>(weight);
  }
};

template <class Real>
void add_weights(const OwnWeights<Real>& weights, Real* terms) {
  if (!weights.any) return;
  for (int64_t i = 0; i < tile * lanes; ++i) terms[i] += weights.of[i];
}

inline void rescale_and_add(double* to, Floats grown, Floats part) {
  using Wide = double __attribute__((vector_size(2 * vector_bytes)));
  Wide sum;
  std::memcpy(&sum, to, sizeof sum);
  sum = sum * __builtin_convertvector(grown, Wide) + __builtin_convertvector(part, Wide);
  std::memcpy(to, &sum, sizeof sum);
}
inline void rescale_and_add(double* to, Doubles grown, Doubles part) { store(to, load(to) * grown + part); }

// A running maximum and the sum of 2^(term - maximum), for each lane (Milakov & Gimelshein 2018). A maximum may lag
// behind the terms as long as no power overflows.
template <class Real>
struct LogSum {
  alignas(64) Real maximum[lanes], least = lowest<Real>;  // `least` is the smallest of the maxima
  alignas(64) double sum[lanes];

  LogSum() {
    for (int64_t k = 0; k < lanes; ++k) maximum[k] = lowest<Real>, sum[k] = 0;
  }

  bool may_lag(Real bound_of_terms) const { return bound_of_terms < least + 100; }

  void add(const Vector<Real>* part) {
    for (int64_t v = 0; v < vectors<Real>; ++v) add_to(sum + v * width<Real>, part[v]);
  }

  // Raises the maxima to those of all terms so far. NaN never becomes a maximum, but makes the sum NaN.
  void add(const Real* terms) {
    for (int64_t v = 0; v < vectors<Real>; ++v) {
      const Vector<Real> before = load(maximum + v * width<Real>);
      Vector<Real> now = before;
      for (int64_t j = 0; j < tile; ++j) now = larger(load(terms + j * lanes + v * width<Real>), now);
      const Vector<Real> base = now == lowest<Real> ? Vector<Real>{} : now;  // avoids infinity - infinity
      Vector<Real> part{};
      for (int64_t j = 0; j < tile; ++j) part += exp2_(load(terms + j * lanes + v * width<Real>) - base);
      store(maximum + v * width<Real>, now);
      rescale_and_add(sum + v * width<Real>, exp2_(before - base), part);
    }
    least = maximum[0];
    for (int64_t k = 1; k < lanes; ++k) least = maximum[k] < least ? maximum[k] : least;
  }

  double value(int64_t k, double weight) const {
    using T = Wider<Real>;
    const T logarithm = static_cast<T>(maximum[k]) + std::log2(static_cast<T>(sum[k])) + static_cast<T>(weight);
    return static_cast<double>(ln_2<T> * logarithm);
  }
};

template <class Real>
Real highest(const Real* x) {
  Vector<Real> most = load(x);
  for (int64_t j = width<Real>; j < tile; j += width<Real>) most = larger(load(x + j), most);
  Real result = most[0];
  for (int64_t k = 1; k < width<Real>; ++k) result = most[k] > result ? most[k] : result;
  return result;
}

// Adds one dim's terms of a block and a tile to the joint's terms and to the marginal's sum.
template <class Real>
void add_dim(const Real* z, const Posteriors<Real>& posteriors, const OwnWeights<Real>& weights, Real* joint,
             LogSum<Real>& marginal) {
  using V = Vector<Real>;
  if (!weights.any && marginal.may_lag(highest(posteriors.peak))) {
    V part[vectors<Real>] = {};
    for (int64_t j = 0; j < tile; ++j)
      for (int64_t v = 0; v < vectors<Real>; ++v) {
        Real* const to = joint + j * lanes + v * width<Real>;
        const V term = term_of(load(z + v * width<Real>), posteriors, j);
        store(to, load(to) + term);
        part[v] += exp2_(term - load(marginal.maximum + v * width<Real>));
      }
    marginal.add(part);
    return;
  }
  alignas(64) Real terms[tile * lanes];
  for (int64_t j = 0; j < tile; ++j)
    for (int64_t v = 0; v < vectors<Real>; ++v) {
      const int64_t at = j * lanes + v * width<Real>;
      const V term = term_of(load(z + v * width<Real>), posteriors, j);
      store(joint + at, load(joint + at) + term);
      store(terms + at, term);
    }
  add_weights(weights, terms);
  marginal.add(terms);
}

template <class Real>
void forward_block(const LogDensitiesForward<Real>& p, int64_t block) {
  const int64_t dims = p.pairs.dims;
  LogSum<Real> joint;
  std::unique_ptr<LogSum<Real>[]> marginals(new LogSum<Real>[static_cast<size_t>(dims)]);
  OwnWeights<Real> weights;
  for (int64_t index = 0; index < p.pairs.tiles(); ++index) {
    weights.set(p, block, index * tile);
    JointTerms<Real> terms;
    for (int64_t d = 0; d < dims; ++d) {
      add_dim(p.z + (block * dims + d) * lanes, p.tile(index, d), weights, terms.at(d), marginals[d]);
      terms.complete(d, dims);
    }
    add_weights(weights, terms.of);
    // With D = 0 there is no peak of -infinity to mask the padded posteriors, so they are masked here.
    for (int64_t i = (p.pairs.posteriors - index * tile) * lanes; i < tile * lanes; ++i) terms.of[i] = lowest<Real>;
    joint.add(terms.of);
  }
  for (int64_t k = 0; k < lanes; ++k) {
    const int64_t row = block * lanes + k;
    if (row >= p.pairs.rows) break;
    p.joint[row] = joint.value(k, p.weights.all);
    for (int64_t d = 0; d < dims; ++d) p.marginals[row * dims + d] = marginals[d].value(k, p.weights.all);
  }
}

// Writes g_i p_ij of a block and a tile to `result`, as [j][block of the group][lane].
template <class Real>
void joint_gradients(const LogDensitiesBackward<Real>& p, int64_t block, int64_t index, const OwnWeights<Real>& weights,
                     Real* result) {
  using V = Vector<Real>;
  const int64_t dims = p.pairs.dims;
  JointTerms<Real> terms;
  for (int64_t d = 0; d < dims; ++d) {
    const Real* const z = p.z + (block * dims + d) * lanes;
    const Posteriors<Real>& posteriors = p.tile(index, d);
    Real* const sums = terms.at(d);
    for (int64_t j = 0; j < tile; ++j)
      for (int64_t v = 0; v < vectors<Real>; ++v) {
        Real* const to = sums + j * lanes + v * width<Real>;
        store(to, load(to) + term_of(load(z + v * width<Real>), posteriors, j));
      }
    terms.complete(d, dims);
  }
  add_weights(weights, terms.of);
  for (int64_t j = 0; j < tile; ++j)
    for (int64_t v = 0; v < vectors<Real>; ++v) {
      const int64_t from = block * lanes + v * width<Real>;
      const V term = load(terms.of + j * lanes + v * width<Real>);
      const V grad = load(p.grad_joint + from) * exp2_(term - load(p.joint + from));
      store(result + j * group * lanes + v * width<Real>, grad);
    }
}

// The sums of one dim over the rows, for each posterior of a tile, still separate for each lane.
template <class Real>
struct Moments {
  alignas(64) Real mass[tile][lanes], pull[tile][lanes], stretch[tile][lanes];  // sums of w, w t and w t^2
};

// Adds one dim's gradients of a group of blocks and a tile to the blocks' grad_z, which are dims * lanes apart, and to
// the tile's sums. `weighted` tells whether some pairs have a weight of their own.
template <bool weighted, class Real>
void add_gradients(const LogDensitiesBackward<Real>& p, int64_t first_block, int64_t d, int64_t index,
                   const OwnWeights<Real>* weights, const Real* joint, double* grad_z, Moments<Real>& sums) {
  using V = Vector<Real>;
  const int64_t dims = p.pairs.dims;
  const Posteriors<Real>& posteriors = p.tile(index, d);
  for (int64_t v = 0; v < vectors<Real>; ++v) {
    V own[group], grad[group], minus[group], part[group] = {};
    for (int64_t g = 0; g < group; ++g) {
      const int64_t from = ((first_block + g) * dims + d) * lanes + v * width<Real>;
      own[g] = load(p.z + from);
      grad[g] = load(p.grad_marginals + from);
      minus[g] = load(p.marginals + from);
    }
    for (int64_t j = 0; j < tile; ++j) {
      V w[group], mass{}, pull{}, stretch{};
      for (int64_t g = 0; g < group; ++g) {
        V term = term_of(own[g], posteriors, j);
        if (weighted && weights[g].any) term += load(weights[g].of + j * lanes + v * width<Real>);
        w[g] = grad[g] * exp2_(term - minus[g]) + load(joint + (j * group + g) * lanes + v * width<Real>);
      }
      const Real inverse = posteriors.inverse_width[j];
      for (int64_t g = 0; g < group; ++g) {
        const V t = (own[g] - posteriors.mu[j]) * inverse, wt = w[g] * t;
        part[g] += wt * inverse;
        mass += w[g];
        pull += wt;
        stretch += wt * t;
      }
      const auto add = [&](Real* to, V x) { store(to + v * width<Real>, load(to + v * width<Real>) + x); };
      add(sums.mass[j], mass);
      add(sums.pull[j], pull);
      add(sums.stretch[j], stretch);
    }
    for (int64_t g = 0; g < group; ++g) add_to(grad_z + g * dims * lanes + v * width<Real>, part[g]);
  }
}

// Adds the gradients of one tile of posteriors and the blocks of one chunk; `sums` has an element for each dim.
template <class Real>
void backward_tile(const LogDensitiesBackward<Real>& p, int64_t first_block, int64_t last_block, int64_t index,
                   double* grad_z, Moments<Real>* sums) {
  const int64_t dims = p.pairs.dims;
  alignas(64) Real joint[tile * group * lanes];
  OwnWeights<Real> weights[group];
  std::memset(static_cast<void*>(sums), 0, static_cast<size_t>(dims) * sizeof *sums);
  for (int64_t block = first_block; block < last_block; block += group) {
    bool weighted = false;
    for (int64_t g = 0; g < group; ++g) {
      weights[g].set(p, block + g, index * tile);
      weighted |= weights[g].any;
      joint_gradients(p, block + g, index, weights[g], joint + g * lanes);
    }
    const auto add = weighted ? add_gradients<true, Real> : add_gradients<false, Real>;
    for (int64_t d = 0; d < dims; ++d)
      add(p, block, d, index, weights, joint, grad_z + ((block - first_block) * dims + d) * lanes, sums[d]);
  }
}

// Adds up the lanes for each posterior. Four lanes at a time are added first, in a loop of their own, because compilers
// turn it into vectors.
template <class Real>
void add_lanes(const Real (&of)[tile][lanes], double (&sums)[tile]) {
  Real four[tile][4];
  for (int64_t j = 0; j < tile; ++j)
    for (int64_t k = 0; k < 4; ++k) four[j][k] = (of[j][k] + of[j][4 + k]) + (of[j][8 + k] + of[j][12 + k]);
  const auto wide = [&four](int64_t j, int64_t k) { return static_cast<double>(four[j][k]); };
  for (int64_t j = 0; j < tile; ++j) sums[j] = (wide(j, 0) + wide(j, 1)) + (wide(j, 2) + wide(j, 3));
}

// Turns the moments of one dim into the gradients of a tile's posteriors.
template <class Real>
void write_gradients(const Moments<Real>& moments, const Posteriors<Real>& posteriors, Real* grad_mu,
                     Real* grad_logvar) {
  constexpr double inverse_k2 = 1 / (k_scale<double> * k_scale<double>);
  double mass[tile], pull[tile], stretch[tile];
  add_lanes(moments.mass, mass);
  add_lanes(moments.pull, pull);
  add_lanes(moments.stretch, stretch);
  for (int64_t j = 0; j < tile; ++j) {
    const double exact = 1 + static_cast<double>(posteriors.rounded_off[j]);
    const double inverse = static_cast<double>(posteriors.inverse_width[j]) * exact;
    grad_mu[j] = static_cast<Real>(pull[j] * exact * inverse * inverse_k2);
    grad_logvar[j] = static_cast<Real>(ln_2<double> * stretch[j] * exact * exact - 0.5 * mass[j]);
  }
}

template <class Real>
void backward_chunk(const LogDensitiesBackward<Real>& p, int64_t chunk) {
  constexpr double inverse_k2 = 1 / (k_scale<double> * k_scale<double>);
  const int64_t dims = p.pairs.dims;
  const int64_t chunk_blocks = p.pairs.chunk_groups() * group, first_block = chunk * chunk_blocks;
  const int64_t blocks = p.pairs.groups() * group;
  const int64_t last_block = first_block + chunk_blocks < blocks ? first_block + chunk_blocks : blocks;
  std::unique_ptr<Moments<Real>[]> sums(new Moments<Real>[static_cast<size_t>(dims)]);
  std::unique_ptr<double[]> grad_z(new double[static_cast<size_t>((last_block - first_block) * dims * lanes)]());
  for (int64_t index = 0; index < p.pairs.tiles(); ++index) {
    backward_tile(p, first_block, last_block, index, grad_z.get(), sums.get());
    for (int64_t d = 0; d < dims; ++d) {
      const int64_t at = ((chunk * p.pairs.tiles() + index) * dims + d) * tile;
      write_gradients(sums[d], p.tile(index, d), p.grad_mu + at, p.grad_logvar + at);
    }
  }
  const int64_t first_row = first_block * lanes, rows = p.pairs.rows;
  for (int64_t row = first_row; row < last_block * lanes && row < rows; ++row)
    for (int64_t d = 0; d < dims; ++d) {
      const int64_t block = row / lanes - first_block;
      p.grad_z[row * dims + d] = static_cast<Real>(-grad_z[(block * dims + d) * lanes + row % lanes] * inverse_k2);
    }
}

template <class Real>
void forward(const LogDensitiesForward<Real>& p, int64_t first_block, int64_t last_block) {
  const FlushSubnormals flush;
  for (int64_t block = first_block; block < last_block; ++block) forward_block(p, block);
}

template <class Real>
void backward(const LogDensitiesBackward<Real>& p, int64_t first_chunk, int64_t last_chunk) {
  const FlushSubnormals flush;
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) backward_chunk(p, chunk);
}

}  // namespace

extern const LogDensitiesKernels log_densities_kernels = {{forward<float>, backward<float>},
                                                          {forward<double>, backward<double>}};

}  // namespace betavae_fast::BVF_ISA
