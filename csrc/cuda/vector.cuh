// Loads and stores a thread's group of elements: 16 bytes of the input dtype, computed in float.
#pragma once

#include "../include/storage.h"

namespace betavae_fast::cuda {

template <class T>
constexpr int group_size = 16 / sizeof(T);

// Converts pairs of elements, because a pair takes one instruction where two separate conversions take three.
__device__ __forceinline__ void widen_pair(uint32_t word, BFloat16, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xFFFF0000u);
}
__device__ __forceinline__ void widen_pair(uint32_t word, Half, float& low, float& high) {
  const float2 pair = __half22float2(__halves2half2(__ushort_as_half(static_cast<unsigned short>(word)),
                                                    __ushort_as_half(static_cast<unsigned short>(word >> 16))));
  low = pair.x;
  high = pair.y;
}
__device__ __forceinline__ uint32_t narrow_pair(float low, float high, BFloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return uint32_t{__bfloat16_as_ushort(pair.x)} | uint32_t{__bfloat16_as_ushort(pair.y)} << 16;
}
__device__ __forceinline__ uint32_t narrow_pair(float low, float high, Half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return uint32_t{__half_as_ushort(pair.x)} | uint32_t{__half_as_ushort(pair.y)} << 16;
}

// `from` and `to` are aligned to 16 bytes.
template <class T>
__device__ __forceinline__ void load_group(const T* from, float (&x)[16 / sizeof(T)]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  widen_pair(words.x, T{}, x[0], x[1]);
  widen_pair(words.y, T{}, x[2], x[3]);
  widen_pair(words.z, T{}, x[4], x[5]);
  widen_pair(words.w, T{}, x[6], x[7]);
}
template <int n>
__device__ __forceinline__ void load_group(const float* from, float (&x)[n]) {
#pragma unroll
  for (int j = 0; j < n; j += 4) {
    const float4 words = *reinterpret_cast<const float4*>(from + j);
    x[j] = words.x, x[j + 1] = words.y, x[j + 2] = words.z, x[j + 3] = words.w;
  }
}
template <class T>
__device__ __forceinline__ void store_group(T* to, const float (&x)[16 / sizeof(T)]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(narrow_pair(x[0], x[1], T{}), narrow_pair(x[2], x[3], T{}),
                                             narrow_pair(x[4], x[5], T{}), narrow_pair(x[6], x[7], T{}));
}
template <int n>
__device__ __forceinline__ void store_group(float* to, const float (&x)[n]) {
#pragma unroll
  for (int j = 0; j < n; j += 4) *reinterpret_cast<float4*>(to + j) = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
}

}  // namespace betavae_fast::cuda
