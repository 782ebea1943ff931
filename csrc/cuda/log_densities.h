// The aggregated posterior's log-densities on CUDA, independent of torch: the arguments of the kernels, their splits,
// and their launches.
//
// The inputs are first copied into the kernels' layout: floats, one dim after the other, padded to whole tiles. Then
// every CTA owns `own` rows (or posteriors), and streams the posteriors (or rows) past them, `others` at a time.
#pragma once

#include "../include/log_densities.h"
#include "../include/problem.h"
#include "tuning.h"

namespace betavae_fast::cuda {

constexpr int log_densities_warps = 4, log_densities_threads = 32 * log_densities_warps;
constexpr int own_each = 4, own = 32 * own_each;  // owned by a lane; by each warp, and thus by the CTA
constexpr int others_each = 8, others = log_densities_warps * others_each;  // streamed at a time by a warp; by the CTA

inline int64_t tiles_of(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }
inline int64_t padded(int64_t count) { return tiles_of(count, own) * own; }

// The splits of the streamed side among CTAs that own the same rows or posteriors. They depend only on the shape and
// the tuning. There are enough of them to fill a GPU, but few, because the sums of each are kept until they are added
// up in order. Splitting never makes more CTAs than wanted: a few more than a GPU holds at once would take as long as
// all the others together.
struct Splits {
  static constexpr int64_t max_splits = 32;
  int64_t count = 0, tiles = 0;  // number of splits, and of tiles in a split

  Splits() = default;
  Splits(int64_t ctas, int64_t streamed, Tuning tuned) : all_(tiles_of(streamed, others)) {
    const int64_t wanted = ctas < tuned.log_densities_ctas ? tuned.log_densities_ctas / ctas : 1;
    tiles = tiles_of(all_, wanted < max_splits ? wanted : max_splits);
    count = tiles_of(all_, tiles);
  }

  BVF_INLINE int64_t first_tile(int64_t split) const { return split * tiles; }
  BVF_INLINE int64_t last_tile(int64_t split) const { return split + 1 < count ? (split + 1) * tiles : all_; }

 private:
  int64_t all_ = 0;
};

// A matrix in the caller's layout; strides count elements. A vector is a column, whose stride along a row is 0.
struct Matrix {
  const void* data;
  int64_t row, col;
};

// The arrays that the kernels prepare have the layout [d][i] with padded i, or [i].
struct LogDensitiesProblem {
  DType dtype;
  int64_t rows, posteriors, dims, first_row;  // b, B, D
  int64_t row_stride, posterior_stride;       // padded numbers of rows and posteriors
  PairWeights weights;
  Matrix z_in, mu_in, logvar_in;
  float *z, *mu, *inverse_width, *peak;
  float* peak_sum;  // sum of peak over the dims
};

// The maximum of the terms in base 2 and the sum of 2^(term - maximum), for every row and every split of the
// posteriors: [split][row], or [split][d][row].
struct LogSums {
  Splits splits;
  float *maximum, *sum;
};

struct LogDensitiesForward : LogDensitiesProblem {
  LogSums of_joint, of_marginals;
  double *joint, *marginals;  // of shape (b,) and (b, D)
};

// Backward normalises the responsibilities again: in float, log q is too coarse for the responsibilities of large terms
// to add up to 1. It therefore sweeps the rows first, and divides the gradients that the posteriors use by the sums of
// the rows' responsibilities.
constexpr int kept_sums = 3;  // sums that each split of LogDensitiesBackward leaves per dim, for a row or a posterior

struct LogDensitiesBackward : LogDensitiesProblem {
  Matrix grad_joint_in, grad_marginals_in, joint_in, marginals_in;
  float *joint, *marginals;            // in base 2, without the weight of all pairs
  float *grad_joint, *grad_marginals;  // divided by the sum of the responsibilities
  Splits of_rows, of_posteriors;
  float* joint_mass;      // [split][row]: sum of the joint's responsibilities
  float* row_sums;        // [split][the joint's pull, the marginal's pull, the marginal's mass][d][row]
  float* posterior_sums;  // [split][mass, pull, stretch][d][posterior]
  void *grad_z, *grad_mu, *grad_logvar;
};

// Each function returns null, or an error message.
const char* prepare_inputs(const LogDensitiesProblem& arguments, void* stream);
const char* prepare_logs(const LogDensitiesBackward& arguments, void* stream);
const char* log_densities_forward(const LogDensitiesForward& arguments, void* stream);
const char* log_densities_backward(const LogDensitiesBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
