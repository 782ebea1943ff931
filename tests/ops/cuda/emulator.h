// Runs CUDA kernels on the CPU, one CTA after the other. Every thread is a fiber, and all fibers of a CTA go in lock step
// from one synchronising call to the next. This is slow, but it runs the kernels' own code. If two CTAs, or two threads
// between two synchronising calls, write to one place, the last one wins. EMULATED_ORDER=reverse reverses the order of
// both, so that another one wins.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "storage.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

namespace emulator {

struct Index3 {
  unsigned x = 0;
};

constexpr size_t stack_size = 256 * 1024;

// Fibers take turns by jumps, because swapcontext asks the kernel for the signal mask each time.
struct Fiber {
  jmp_buf left_at;
  std::unique_ptr<char[]> stack{new char[stack_size]};  // not cleared, so that pages that no call reaches take no memory
  bool finished = false;
  const char* stopped_at = nullptr;
};

inline Index3 thread_index, block_index;
inline jmp_buf scheduler;
inline std::vector<Fiber> fibers;
inline std::function<void()> body;
inline uint64_t exchanged[1024];
inline int64_t looked_up = 0;  // number of pixel groups that are read pixel by pixel (emulate.py)

// Yields to the other threads of the CTA until all have reached this point.
inline void synchronise(const char* where) {
  Fiber& fiber = fibers[thread_index.x];
  fiber.stopped_at = where;
  if (_setjmp(fiber.left_at) == 0) _longjmp(scheduler, 1);
}

// The body of a fiber: it is the same thread of one CTA after the other.
inline void enter() {
  while (true) {
    synchronise("the end");
    body();
    fibers[thread_index.x].finished = true;
  }
}

inline void take_turn(unsigned thread) {
  thread_index.x = thread;
  if (_setjmp(scheduler) == 0) _longjmp(fibers[thread].left_at, 1);
}

inline void make_fibers(unsigned count) {
  fibers = std::vector<Fiber>(count);
  for (unsigned t = 0; t < count; ++t) {
    static ucontext_t context;
    getcontext(&context);
    context.uc_stack = {fibers[t].stack.get(), 0, stack_size};
    makecontext(&context, enter, 0);
    thread_index.x = t;
    if (_setjmp(scheduler) == 0) setcontext(&context);
  }
}

// The numbers from 0 to count, in the order in which CTAs and threads run.
inline std::vector<unsigned> turns(unsigned count) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  const char* wanted = std::getenv("EMULATED_ORDER");
  if (wanted && std::strcmp(wanted, "reverse") == 0) std::reverse(order.begin(), order.end());
  return order;
}

inline void run_cta(unsigned cta, const std::vector<unsigned>& threads) {
  block_index.x = cta;
  for (unsigned t : threads) fibers[t].finished = false;
  const Fiber& first = fibers[threads[0]];
  while (!first.finished) {
    for (unsigned t : threads) {
      take_turn(t);
      if (fibers[t].finished != first.finished || fibers[t].stopped_at != first.stopped_at) {
        std::fprintf(stderr, "CTA %u: thread %u stopped at %s, thread %u at %s\n", cta, t, fibers[t].stopped_at,
                     threads[0], first.stopped_at);
        std::abort();
      }
    }
  }
}

template <class Kernel, class... Arguments>
void launch(Kernel kernel, unsigned ctas, unsigned threads, const Arguments&... arguments) {
  if (fibers.size() < threads) make_fibers(threads);
  body = [&] { kernel(arguments...); };
  const std::vector<unsigned> order = turns(threads);
  for (unsigned cta : turns(ctas)) run_cta(cta, order);
}

template <class T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8);
  std::memcpy(&exchanged[thread_index.x], &value, sizeof value);
  synchronise("shuffle");
  std::memcpy(&value, &exchanged[from], sizeof value);
  synchronise("shuffled");
  return value;
}

}  // namespace emulator

// Weak, because every source defines it.
extern "C" __attribute__((weak)) int64_t emulated_look_ups() { return emulator::looked_up; }

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index

inline void __syncthreads() { emulator::synchronise("__syncthreads"); }
template <class T>
T __shfl_sync(unsigned, T value, unsigned lane) {
  return emulator::exchange(value, threadIdx.x / 32 * 32 + lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
  return emulator::exchange(value, threadIdx.x % 32 + distance < 32 ? threadIdx.x + distance : threadIdx.x);
}

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float __uint_as_float(uint32_t bits) { return betavae_fast::float_from_bits(bits); }

struct float2 {
  float x, y;
};
struct __half2 {
  uint16_t x, y;
};
struct __nv_bfloat162 {
  uint16_t x, y;
};
inline uint16_t __ushort_as_half(unsigned short bits) { return bits; }
inline unsigned short __half_as_ushort(uint16_t bits) { return bits; }
inline unsigned short __bfloat16_as_ushort(uint16_t bits) { return bits; }
inline __half2 __halves2half2(uint16_t x, uint16_t y) { return {x, y}; }
inline float2 __half22float2(__half2 pair) {
  return {betavae_fast::widen(betavae_fast::Half{pair.x}), betavae_fast::widen(betavae_fast::Half{pair.y})};
}
inline __half2 __floats2half2_rn(float x, float y) {
  betavae_fast::Half low, high;
  betavae_fast::narrow(x, low);
  betavae_fast::narrow(y, high);
  return {low.bits, high.bits};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  betavae_fast::BFloat16 low, high;
  betavae_fast::narrow(x, low);
  betavae_fast::narrow(y, high);
  return {low.bits, high.bits};
}
