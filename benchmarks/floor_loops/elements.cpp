// The least work of the latent op and of the Bernoulli likelihood: each element's formula and nothing else.
//
// The formulas are those of csrc/include and the noise that of csrc/cpu/normals.h. The data are consecutive, aligned
// and padded to whole tiles, so there are no strides, tails or checks. `still` makes each thread work on its first tile
// all the time, which leaves the arithmetic alone.

#define BVF_ISA floors
#include "../../csrc/cpu/exponents.h"
#include "../../csrc/cpu/normals.h"
#include "../../csrc/include/latent.h"
#include "../../csrc/include/likelihood.h"
#include "threads.h"

namespace betavae_fast::floors {
namespace {

constexpr int64_t most_elements = 1024;  // of a tile
constexpr int64_t strip = 128;           // elements between two of the loops; a tile has whole strips

using Noise = NormalBuffer<most_elements>;

struct Strip {
  alignas(64) float half[strip], r[strip], scale[strip];

  void reduce_all(const float* __restrict logvar) {
    const ExponentRange range = variable_range();
    for (int64_t i = 0; i < strip; ++i) {
      const Reduced<float> x = reduce(logvar[i], range);
      half[i] = x.x, r[i] = x.r, scale[i] = x.scale;
    }
  }
  Reduced<float> operator[](int64_t i) const { return {half[i], r[i], scale[i]}; }
};

void forward_strip(const float* __restrict mu, const Strip& reduced, const float* __restrict eps, float* __restrict z,
                   float* __restrict sums) {
  for (int64_t i = 0; i < strip; ++i) {
    const Spread<float> s = spread(reduced[i]);
    z[i] = sample(mu[i], s, eps[i]);
    sums[i] += kl(mu[i], s);
  }
}

void backward_strip(const float* __restrict mu, const Strip& reduced, const float* __restrict eps,
                    const float* __restrict grad_z, const float* __restrict grad_kl, float* __restrict grad_mu,
                    float* __restrict grad_logvar) {
  for (int64_t i = 0; i < strip; ++i) {
    const LatentGrad<float> g = latent_grad(mu[i], spread(reduced[i]), eps[i], grad_z[i], grad_kl[i]);
    grad_mu[i] = g.mu;
    grad_logvar[i] = g.logvar;
  }
}

float bernoulli_strip(const float* __restrict x, const uint8_t* __restrict t, float* __restrict grad) {
  alignas(64) float e[strip];
  const ExponentRange range = variable_range();
#pragma GCC unroll 4
  for (int64_t i = 0; i < strip; ++i) e[i] = decay(x[i], range);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < strip; ++i) {
    const Nll<float> element = bernoulli(x[i], static_cast<float>(t[i]), e[i]);
    grad[i] = element.grad;
    sum += element.nll;
  }
  return sum;
}

}  // namespace

extern "C" {

// kl: the means of the columns, of which a tile has whole rows; rows: those that are not padding.
void latent_forward(int64_t threads, int64_t tiles, int64_t elements, int64_t still, uint64_t seed, uint64_t stream,
                    const float* mu, const float* logvar, float* z, float* kl, int64_t cols, int64_t rows) {
  std::vector<double> sums(static_cast<size_t>(cols * threads));
  on_threads(threads, tiles, still, [&](int64_t thread, auto each) {
    const KeySchedule key(NoiseKey{seed, stream});
    Noise noise;
    Strip reduced;
    alignas(64) float all[most_elements] = {};
    each([&](int64_t tile) {
      const int64_t first = tile * elements;
      const float* const eps = noise.fill(key, static_cast<uint64_t>(first), elements);
      for (int64_t at = 0; at < elements; at += strip) {
        reduced.reduce_all(logvar + first + at);
        forward_strip(mu + first + at, reduced, eps + at, z + first + at, all + at);
      }
    });
    for (int64_t i = 0; i < elements; ++i) sums[static_cast<size_t>(thread * cols + i % cols)] += all[i];
  });
  for (int64_t c = 0; c < cols; ++c) {
    double sum = 0;
    for (int64_t thread = 0; thread < threads; ++thread) sum += sums[static_cast<size_t>(thread * cols + c)];
    kl[c] = static_cast<float>(sum / static_cast<double>(rows));
  }
}

// grad_kl: the gradient of each element's KL, for one tile.
void latent_backward(int64_t threads, int64_t tiles, int64_t elements, int64_t still, uint64_t seed, uint64_t stream,
                     const float* mu, const float* logvar, const float* grad_z, const float* grad_kl, float* grad_mu,
                     float* grad_logvar) {
  on_threads(threads, tiles, still, [&](int64_t, auto each) {
    const KeySchedule key(NoiseKey{seed, stream});
    Noise noise;
    Strip reduced;
    each([&](int64_t tile) {
      const int64_t first = tile * elements;
      const float* const eps = noise.fill(key, static_cast<uint64_t>(first), elements);
      for (int64_t at = 0; at < elements; at += strip) {
        const int64_t i = first + at;
        reduced.reduce_all(logvar + i);
        backward_strip(mu + i, reduced, eps + at, grad_z + i, grad_kl + at, grad_mu + i, grad_logvar + i);
      }
    });
  });
}

// The sum of the NLLs, and the gradient of each; the target's bytes are 0 or 1.
void bernoulli_nll(int64_t threads, int64_t tiles, int64_t elements, int64_t still, const float* x, const uint8_t* t,
                   float* grad, double* total) {
  std::vector<double> sums(static_cast<size_t>(threads));
  on_threads(threads, tiles, still, [&](int64_t thread, auto each) {
    double sum = 0;
    each([&](int64_t tile) {
      for (int64_t i = tile * elements; i < (tile + 1) * elements; i += strip)
        sum += bernoulli_strip(x + i, t + i, grad + i);
    });
    sums[static_cast<size_t>(thread)] = sum;
  });
  *total = 0;
  for (const double sum : sums) *total += sum;
}

// Reads and writes arrays, piece by piece, and computes nothing. sizes: the bytes of each array's piece, a multiple of
// a vector's. streaming: write past the caches.
void memory(int64_t threads, int64_t pieces, int64_t reads, int64_t writes, char* const* arrays, const int64_t* sizes,
            int64_t streaming) {
  on_threads(threads, pieces, false, [&](int64_t, auto each) {
    Floats sum{};
    each([&](int64_t piece) {
      for (int64_t a = 0; a < reads; ++a) {
        const char* const from = arrays[a] + piece * sizes[a];
        for (int64_t at = 0; at < sizes[a]; at += vector_bytes) sum += load(reinterpret_cast<const float*>(from + at));
      }
      for (int64_t a = reads; a < reads + writes; ++a) {
        char* const to = arrays[a] + piece * sizes[a];
        for (int64_t at = 0; at < sizes[a]; at += vector_bytes) {
          float* const place = reinterpret_cast<float*>(to + at);
          streaming ? store_past_caches(place, sum) : store(place, sum);
        }
      }
    });
    asm volatile("" ::"x"(sum));
  });
}

}  // extern "C"

}  // namespace betavae_fast::floors
