// The aggregated posterior's log-densities on the CPU, independent of torch: the arguments of the kernels, and the
// kernels of each instruction set.
#pragma once

#include <cstdint>

#include "../include/log_densities.h"

namespace betavae_fast {

// The partition of the pairs (i, j), which depends only on the shape. A block is as many rows i as the widest vector
// has lanes. A tile is as many posteriors j as stay in L1 beside a block. Backward takes blocks in groups, and a chunk
// is the groups that add to the same copy of the posteriors' gradients. There are few chunks, because each keeps such a
// copy, but enough for 16 threads.
struct Pairs {
  static constexpr int64_t lanes = 16, tile = 32, group = 8, max_chunks = 16;
  int64_t rows, posteriors, dims;  // b, B, D

  int64_t tiles() const { return (posteriors + tile - 1) / tile; }
  int64_t blocks() const { return (rows + lanes - 1) / lanes; }
  int64_t groups() const { return (blocks() + group - 1) / group; }
  int64_t chunk_groups() const { return (groups() + max_chunks - 1) / max_chunks; }
  int64_t chunks() const { return (groups() + chunk_groups() - 1) / chunk_groups(); }
  int64_t padded_rows() const { return groups() * group * lanes; }
};

// The constants of a tile's posteriors in one dim. Padded posteriors have a density of 0 for every z, even an infinite
// one.
template <class Real>
struct Posteriors {
  Real mu[Pairs::tile], inverse_width[Pairs::tile], peak[Pairs::tile];
  Real rounded_off[Pairs::tile];  // exact inverse width / inverse_width - 1
};

// Real is float or double. Rows are stored by blocks as z[block][d][lane], and posteriors by tiles as [tile][d]. Padded
// rows have responsibilities of 0.
template <class Real>
struct LogDensitiesProblem {
  Pairs pairs;
  PairWeights weights;
  int64_t first_row;
  const Real* z;
  const Posteriors<Real>* posteriors;

  const Posteriors<Real>& tile(int64_t index, int64_t d) const { return posteriors[index * pairs.dims + d]; }
};

template <class Real>
struct LogDensitiesForward : LogDensitiesProblem<Real> {
  double *joint, *marginals;  // natural logarithms of shape (b,) and (b, D)
};

template <class Real>
struct LogDensitiesBackward : LogDensitiesProblem<Real> {
  // The joint's arrays are stored as [block][lane], the marginals' as [block][d][lane]. The logarithms are in base 2
  // and do not include the weight of all pairs.
  const Real *grad_joint, *grad_marginals, *joint, *marginals;
  Real* grad_z;                 // (b, D)
  Real *grad_mu, *grad_logvar;  // [chunk][tile][d][j]
};

template <class Real>
struct LogDensitiesKernelsOf {
  void (*forward)(const LogDensitiesForward<Real>&, int64_t first_block, int64_t last_block);
  void (*backward)(const LogDensitiesBackward<Real>&, int64_t first_chunk, int64_t last_chunk);
};

struct LogDensitiesKernels {
  LogDensitiesKernelsOf<float> narrow;
  LogDensitiesKernelsOf<double> wide;
};

}  // namespace betavae_fast
