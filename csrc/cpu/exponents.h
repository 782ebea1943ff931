// The range of the exponents for loops over many elements.
#pragma once

#include "../include/exponential.h"

namespace betavae_fast::BVF_ISA {

// The range in variables that compilers know nothing of. A number is clamped to variables in two instructions, NaN
// kept; from constants g++ 12 makes up to eight.
inline ExponentRange variable_range() {
  ExponentRange range;
  asm("" : "+g"(range.low), "+g"(range.high));
  return range;
}

}  // namespace betavae_fast::BVF_ISA
