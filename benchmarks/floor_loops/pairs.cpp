// The least work of the log-densities: the terms of all pairs of a row i and a posterior j in every dim d, and their
// exponentials; see csrc/include/log_densities.h for the formulas.
//
// Rows and posteriors come in the kernels' layout: z[block][d][lane], posteriors[tile][d][mu, 1/width, peak][j].
// Nothing is padded, no pair has a weight of its own, and the peaks are lowered so much that no power of two overflows.
// `still` makes each thread work on its first rows and the first posteriors all the time, which leaves the arithmetic
// alone.

#define BVF_ISA floors
#include "../../csrc/cpu/powers.h"
#include "../../csrc/cpu/subnormals.h"
#include "threads.h"

namespace betavae_fast::floors {
namespace {

constexpr int64_t lanes = 16, tile = 32;
constexpr int64_t width = vector_bytes / sizeof(float), vectors = lanes / width;
// The vectors of rows that backward takes at once; each has a sum in a register.
constexpr int64_t at_once = 8;
constexpr int64_t group = 8;  // blocks whose joint gradients are computed together

struct Posteriors {
  float mu[tile], inverse_width[tile], peak[tile];
};

struct Pairs {
  int64_t tiles, dims;
  const float* z;
  const Posteriors* posteriors;
  int64_t still;

  const float* rows(int64_t block, int64_t d) const { return z + (block * dims + d) * lanes; }
  const Posteriors& of(int64_t index, int64_t d) const { return posteriors[(still ? 0 : index) * dims + d]; }
};

// Adds one dim's terms of a block and a tile to the joint's.
template <class Use>
inline void terms_of(const float* z, const Posteriors& posteriors, bool first, float* joint, int64_t joint_row,
                     Use use) {
  Floats own[vectors];
  for (int64_t v = 0; v < vectors; ++v) own[v] = load(z + v * width);
  for (int64_t j = 0; j < tile; ++j)
    for (int64_t v = 0; v < vectors; ++v) {
      const Floats t = (own[v] - posteriors.mu[j]) * posteriors.inverse_width[j];
      const Floats term = posteriors.peak[j] - t * t;
      float* const to = joint + j * joint_row + v * width;
      store(to, first ? term : load(to) + term);
      use(v, term);
    }
}

}  // namespace

extern "C" {

// Writes the sums of the powers: joint[block][lane] and marginals[block][d][lane].
void log_densities_forward(int64_t threads, int64_t blocks, int64_t tiles, int64_t dims, int64_t still, const float* z,
                           const Posteriors* posteriors, float* joint, float* marginals) {
  const Pairs pairs = {tiles, dims, z, posteriors, still};
  std::fill_n(joint, blocks * lanes, 0.0f);
  std::fill_n(marginals, blocks * dims * lanes, 0.0f);
  on_threads(threads, blocks, still, [&](int64_t, auto each) {
    const FlushSubnormals flush;
    alignas(64) float all[tile * lanes];
    each([&](int64_t block) {
      for (int64_t index = 0; index < tiles; ++index) {
        for (int64_t d = 0; d < dims; ++d) {
          Floats part[vectors] = {};
          terms_of(pairs.rows(block, d), pairs.of(index, d), d == 0, all, lanes,
                   [&](int64_t v, Floats term) { part[v] += exp2_(term); });
          for (int64_t v = 0; v < vectors; ++v) {
            float* const to = marginals + (block * dims + d) * lanes + v * width;
            store(to, load(to) + part[v]);
          }
        }
        for (int64_t v = 0; v < vectors; ++v) {
          Floats part{};
          for (int64_t j = 0; j < tile; ++j) part += exp2_(load(all + j * lanes + v * width));
          store(joint + block * lanes + v * width, load(joint + block * lanes + v * width) + part);
        }
      }
    });
  });
}

// grad_joint, grad_marginals: the gradients of the rows' logarithms, divided by the sums of forward. Writes the sums
// over j of w t / width, by rows, and those over i of w, w t and w t^2, as moments[thread][tile][d][3][j].
void log_densities_backward(int64_t threads, int64_t blocks, int64_t tiles, int64_t dims, int64_t still, const float* z,
                            const Posteriors* posteriors, const float* grad_joint, const float* grad_marginals,
                            float* grad_z, float* moments) {
  const Pairs pairs = {tiles, dims, z, posteriors, still};
  std::fill_n(grad_z, blocks * dims * lanes, 0.0f);
  on_threads(threads, blocks / group, still, [&](int64_t thread, auto each) {
    const FlushSubnormals flush;
    struct Moments {
      alignas(64) float of[3][tile][width];
    };
    std::vector<Moments> sums(static_cast<size_t>(dims));
    alignas(64) float joint[tile][group * lanes];
    for (int64_t index = 0; index < tiles; ++index) {
      std::memset(static_cast<void*>(sums.data()), 0, sums.size() * sizeof(Moments));
      each([&](int64_t number) {
        for (int64_t g = 0; g < group; ++g) {
          for (int64_t d = 0; d < dims; ++d)
            terms_of(pairs.rows(number * group + g, d), pairs.of(index, d), d == 0, joint[0] + g * lanes, group * lanes,
                     [](int64_t, Floats) {});
          for (int64_t j = 0; j < tile; ++j)
            for (int64_t v = 0; v < vectors; ++v) {
              float* const to = joint[j] + g * lanes + v * width;
              store(to, load(grad_joint + (number * group + g) * lanes + v * width) * exp2_(load(to)));
            }
        }
        for (int64_t d = 0; d < dims; ++d) {
          const Posteriors& posteriors_of_tile = pairs.of(index, d);
          for (int64_t first = 0; first < group * vectors; first += at_once) {
            Floats own[at_once], grad[at_once], part[at_once] = {};
            const auto place = [=](int64_t k) {
              const int64_t vector = first + k;
              return ((number * group + vector / vectors) * dims + d) * lanes + vector % vectors * width;
            };
            for (int64_t k = 0; k < at_once; ++k)
              own[k] = load(z + place(k)), grad[k] = load(grad_marginals + place(k));
            for (int64_t j = 0; j < tile; ++j) {
              const float inverse = posteriors_of_tile.inverse_width[j];
              Floats mass{}, pull{}, stretch{};
#pragma GCC unroll 8
              for (int64_t k = 0; k < at_once; ++k) {
                const Floats t = (own[k] - posteriors_of_tile.mu[j]) * inverse;
                const Floats w =
                    grad[k] * exp2_(posteriors_of_tile.peak[j] - t * t) + load(joint[j] + (first + k) * width);
                const Floats wt = w * t;
                part[k] += wt * inverse;
                mass += w;
                pull += wt;
                stretch += wt * t;
              }
              auto& of = sums[static_cast<size_t>(d)].of;
              store(of[0][j], load(of[0][j]) + mass);
              store(of[1][j], load(of[1][j]) + pull);
              store(of[2][j], load(of[2][j]) + stretch);
            }
            for (int64_t k = 0; k < at_once; ++k) store(grad_z + place(k), load(grad_z + place(k)) + part[k]);
          }
        }
      });
      for (int64_t d = 0; d < dims; ++d)
        for (int64_t m = 0; m < 3; ++m) {
          float* const to = moments + (((thread * tiles + index) * dims + d) * 3 + m) * tile;
          for (int64_t j = 0; j < tile; ++j) {
            const float* const x = sums[static_cast<size_t>(d)].of[m][j];
            float four[4];
            for (int64_t k = 0; k < 4; ++k) {
              four[k] = 0;
              for (int64_t from = k; from < width; from += 4) four[k] += x[from];
            }
            to[j] = (four[0] + four[1]) + (four[2] + four[3]);
          }
        }
    }
  });
}

}  // extern "C"

}  // namespace betavae_fast::floors
