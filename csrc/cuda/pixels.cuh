// Loads the likelihood's targets: floating-point pixels, and pixels of one byte or one bit.
#pragma once

#include "../include/likelihood.h"
#include "likelihood.h"
#include "operand.cuh"

namespace betavae_fast::cuda {

struct Byte {
  uint8_t value;  // 0 to 255
};
struct Flag {
  uint8_t value;  // 0 or 1
};
struct Bit {};

using betavae_fast::widen;
__device__ __forceinline__ float widen(Byte x) { return pixel(x.value); }
__device__ __forceinline__ float widen(Flag x) { return static_cast<float>(x.value); }

// Converts each byte of a group, which is aligned to its own size, to a float.
template <class T, int n>
__device__ __forceinline__ void load_bytes(const T* from, float (&x)[n]) {
  uint32_t words[n / 4];
  if constexpr (n == 4) {
    words[0] = *reinterpret_cast<const uint32_t*>(from);
  } else {
    const uint2 pair = *reinterpret_cast<const uint2*>(from);
    words[0] = pair.x, words[1] = pair.y;
  }
#pragma unroll
  for (int j = 0; j < n; ++j) x[j] = widen(T{static_cast<uint8_t>(words[j / 4] >> (j % 4 * 8))});
}
template <int n>
__device__ __forceinline__ void load_group(const Byte* from, float (&x)[n]) {
  load_bytes(from, x);
}
template <int n>
__device__ __forceinline__ void load_group(const Flag* from, float (&x)[n]) {
  load_bytes(from, x);
}

// A target of bits, whose offsets and steps count bits. A group is within one byte; elements past `count` may be
// another row's.
template <>
class ThreadOperand<Bit, true> {
 public:
  __device__ __forceinline__ ThreadOperand(const Problem&, const Tiled& view, const ThreadElements& thread,
                                           Column column)
      : bytes_(static_cast<const uint8_t*>(view.data)), at_(column.offset(view, thread.row)), step_(view.step) {}

  template <int n>
  __device__ __forceinline__ void load(int, float (&x)[n]) const {
    const uint32_t bits = static_cast<uint32_t>(bytes_[at_ / 8]) >> (at_ % 8);
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] = (bits >> j & 1) != 0 ? 1.0f : 0.0f;
  }
  __device__ __forceinline__ void next_tile(int64_t) { at_ += step_; }

 private:
  const uint8_t* bytes_;
  uint64_t at_;
  const int64_t& step_;
};

template <class T>
__device__ __forceinline__ float pixel_at(const void* data, int64_t offset, T) {
  return widen(static_cast<const T*>(data)[offset]);
}
__device__ __forceinline__ float pixel_at(const void* data, int64_t offset, Bit) {
  return static_cast<float>(static_cast<const uint8_t*>(data)[offset >> 3] >> (offset & 7) & 1);
}

// A target with any strides and pixels: the place of every pixel is computed. T is decoded's element type.
template <class T>
class AnyPixels {
 public:
  __device__ __forceinline__ AnyPixels(const Problem& p, const Target& target, const ThreadElements& thread, Column)
      : p_(p), target_(target), element_(thread.first) {}

  template <int n>
  __device__ __forceinline__ void load(int count, float (&x)[n]) const {
    int64_t offsets[n];
    Index index(p_, element_);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      offsets[j] = index.offset(target_);
      index.next(p_);
    }
    switch (target_.pixels) {
      case Pixels::uint8: return gather(offsets, count, x, Byte{});
      case Pixels::boolean: return gather(offsets, count, x, Flag{});
      case Pixels::bits: return gather(offsets, count, x, Bit{});
      case Pixels::float32: return gather(offsets, count, x, float{});
      default: return gather(offsets, count, x, T{});
    }
  }
  __device__ __forceinline__ void next_tile(int64_t elements) { element_ += elements; }

 private:
  template <int n, class Pixel>
  __device__ __forceinline__ void gather(const int64_t (&offsets)[n], int count, float (&x)[n], Pixel kind) const {
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] = j < count ? pixel_at(target_.data, offsets[j], kind) : 0.0f;
  }

  const Problem& p_;
  const Target& target_;
  int64_t element_;
};

}  // namespace betavae_fast::cuda
