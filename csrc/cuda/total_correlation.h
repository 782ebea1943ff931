// The aggregated posterior's log-densities on CUDA, free of torch: what to compute, how it is cut, and the launches.
//
// The inputs are first written out as the kernels want them: floats, dim by dim, padded to whole tiles. Then every CTA
// owns `own` rows or posteriors and streams those of the other side past them, `others` at a time.
#pragma once

#include "../include/mixture.h"
#include "../include/problem.h"
#include "tuning.h"

namespace betavae_fast::cuda {

constexpr int mixture_warps = 4, mixture_threads = 32 * mixture_warps;
constexpr int own_each = 4, own = 32 * own_each;                      // of a lane; of each warp, and so of the CTA
constexpr int others_each = 8, others = mixture_warps * others_each;  // of a warp at a time, and of the CTA

inline int64_t tiles_of(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }
inline int64_t padded(int64_t count) { return tiles_of(count, own) * own; }

// How a stream is split among CTAs that own the same: by shape and tuning alone, enough to fill a GPU, few because the
// sums of each are kept until they are added up in order. No more CTAs than wanted: a few beyond those that a GPU holds
// at once would take as long as all the others.
struct Cut {
  static constexpr int64_t max_splits = 32;
  int64_t splits = 0, tiles = 0;  // tiles of a split

  Cut() = default;
  Cut(int64_t ctas, int64_t streamed, Tuning tuned) : all_(tiles_of(streamed, others)) {
    const int64_t wanted = ctas < tuned.mixture_ctas ? tuned.mixture_ctas / ctas : 1;
    tiles = tiles_of(all_, wanted < max_splits ? wanted : max_splits);
    splits = tiles_of(all_, tiles);
  }

  BVF_INLINE int64_t first_tile(int64_t split) const { return split * tiles; }
  BVF_INLINE int64_t last_tile(int64_t split) const { return split + 1 < splits ? (split + 1) * tiles : all_; }

 private:
  int64_t all_ = 0;
};

// A matrix as the caller has it; strides in elements. A column stands with a stride of zero along its row.
struct Matrix {
  const void* data;
  int64_t row, col;
};

// Arrays that are written out are [d][i] with i padded, or [i] alone.
struct Mixture {
  DType dtype;
  int64_t rows, posteriors, dims, first_row;  // b, B, D
  int64_t row_stride, posterior_stride;       // padded
  MixtureWeights weights;
  Matrix z_in, mu_in, logvar_in;
  float *z, *mu, *inverse_width, *peak;
  float* peak_sum;  // over the dims
};

// For every row, and split of the posteriors, the maximum of the terms in base 2 and the sum of 2^(term - maximum):
// [split][row], or [split][d][row].
struct LogSums {
  Cut cut;
  float *maximum, *sum;
};

struct MixtureForward : Mixture {
  LogSums of_joint, of_marginals;
  double *joint, *marginals;  // (b,), (b, D)
};

// The responsibilities are normalised anew: in float, log q is too coarse for those of large terms to add up to 1.
// So rows come first, and what they find their responsibilities to add up to divides the gradients that posteriors see.
constexpr int kept_sums = 3;  // that each split of MixtureBackward leaves for a row or posterior and dim

struct MixtureBackward : Mixture {
  Matrix grad_joint_in, grad_marginals_in, joint_in, marginals_in;
  float *joint, *marginals;            // in base 2, without the weight of all pairs
  float *grad_joint, *grad_marginals;  // divided
  Cut of_rows, of_posteriors;
  float* joint_mass;      // [split][row]: of the joint's responsibilities
  float* row_sums;        // [split][the joint's pull, the marginal's, its mass][d][row]
  float* posterior_sums;  // [split][mass, pull, stretch][d][posterior]
  void *grad_z, *grad_mu, *grad_logvar;
};

// Each returns null, or what went wrong.
const char* prepare_mixture(const Mixture& arguments, void* stream);
const char* prepare_log_densities(const MixtureBackward& arguments, void* stream);
const char* total_correlation_forward(const MixtureForward& arguments, void* stream);
const char* total_correlation_backward(const MixtureBackward& arguments, void* stream);

}  // namespace betavae_fast::cuda
