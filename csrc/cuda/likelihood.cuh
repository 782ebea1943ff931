// Code shared by the likelihood's two kernels: the formulas of a group, and the compiled variants.
#pragma once

#include "dispatch.cuh"
#include "pixels.cuh"

namespace betavae_fast::cuda {

template <class A, class T, int n>
__device__ __forceinline__ void load_both(const A& decoded, const AnyPixels<T>& target, int count, float (&x)[n],
                                          float (&t)[n]) {
  decoded.load(count, x);
  target.load(count, t);
}

template <Likelihood likelihood, int n>
__device__ __forceinline__ void group_nll(Width<float> width, const float (&x)[n], const float (&t)[n], float (&nll)[n],
                                          float (&grad)[n]) {
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const Nll<float> element = element_nll<likelihood>(x[j], t[j], width);
    nll[j] = element.nll;
    grad[j] = element.grad;
  }
}

// Chooses the likelihood at run time. One branch per group, which all threads take alike, leaves a third of the kernels
// to compile.
template <int n>
__device__ __forceinline__ void group_nll(const LikelihoodArguments& p, const float (&x)[n], const float (&t)[n],
                                          float (&nll)[n], float (&grad)[n]) {
  const Width<float> width = {p.inverse_scale, p.constant};
  if (p.likelihood == Likelihood::bernoulli)
    group_nll<Likelihood::bernoulli>(width, x, t, nll, grad);
  else if (p.likelihood == Likelihood::gaussian)
    group_nll<Likelihood::gaussian>(width, x, t, nll, grad);
  else
    group_nll<Likelihood::laplace>(width, x, t, nll, grad);
}

// A compiled variant: decoded's element type, and the way in which decoded and the target are read.
template <class T, class Pixels, bool is_vector>
struct Variant {
  using Element = T;
  using TargetOperand = Pixels;
  static constexpr bool vector = is_vector;
  static constexpr int group = group_size<T>;
};

template <class T, class Visit>
const char* with_variant_of(const LikelihoodArguments& p, Visit visit) {
  if (!p.vector) return visit(Variant<T, AnyPixels<T>, false>{});
  if (!p.target_vector) return visit(Variant<T, AnyPixels<T>, true>{});
  switch (p.target.pixels) {
    case Pixels::uint8: return visit(Variant<T, ThreadOperand<Byte, true>, true>{});
    case Pixels::boolean: return visit(Variant<T, ThreadOperand<Flag, true>, true>{});
    case Pixels::bits: return visit(Variant<T, ThreadOperand<Bit, true>, true>{});
    case Pixels::float32: return visit(Variant<T, ThreadOperand<float, true>, true>{});
    default: return visit(Variant<T, ThreadOperand<T, true>, true>{});
  }
}

template <class Visit>
const char* with_variant(const LikelihoodArguments& p, Visit visit) {
  return with_element(p.dtype, [&](auto element) { return with_variant_of<decltype(element)>(p, visit); });
}

}  // namespace betavae_fast::cuda
