// Numbers too small for a full mantissa.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace betavae_fast::BVF_ISA {

#if defined(__SSE2__)

// While it lives, this thread takes subnormal operands and results as 0. Intel CPUs handle each of them in microcode,
// which takes over a hundred cycles.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | flush_to_zero | denormals_are_zero); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
  unsigned before_;
};

#else

struct FlushSubnormals {
  ~FlushSubnormals() {}
};

#endif

}  // namespace betavae_fast::BVF_ISA
