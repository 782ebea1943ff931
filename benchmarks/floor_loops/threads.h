// Splits tiles among threads, as torch's parallel_for() does.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../csrc/cpu/vectors.h"

namespace betavae_fast::floors {

// Calls visit(thread, each) on every thread; each(use) calls use(tile) for the thread's tiles, or, if `still`, with its
// first tile as often as it has tiles.
template <class Visit>
void on_threads(int64_t threads, int64_t tiles, bool still, Visit visit) {
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
  {
    const int64_t thread = omp_get_thread_num(), first = tiles * thread / threads,
                  last = tiles * (thread + 1) / threads;
    visit(thread, [=](auto use) {
      for (int64_t tile = first; tile < last; ++tile) use(still ? first : tile);
    });
  }
}

// Streaming stores exist on x86 only; elsewhere this is an ordinary one.
inline void store_past_caches(float* to, Floats x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, x);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, x);
#else
  store(to, x);
#endif
}

}  // namespace betavae_fast::floors
