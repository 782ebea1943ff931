"""One pair (row i, posterior j) of the aggregated posterior: the formulas of ``csrc/include/log_densities.h``, in base 2.

With k² = log2(e) / 2 and t = k (z − μ) / σ: log2 N(z; μ, σ²) = peak − t². Pairs are a matrix, with the rows along either
axis and the posteriors along the other.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.reductions import ESTIMATORS
from betavae_fast.ops.triton.numerics import INTERPRETED

MSS = tl.constexpr(ESTIMATORS["mss"])

LN_2 = tl.constexpr(0.69314718055994530942)
_LOG2_E = tl.constexpr(1.44269504088896340736)
INVERSE_K2 = tl.constexpr(1.38629436111989061883)
_K = tl.constexpr(0.84932180028801904272)
_HALF_LOG2_2PI = tl.constexpr(1.32574806473615939902)
# Keeps t finite for z and μ of any reasonable size, and zero if they are equal.
_WIDTH_BOUND = tl.constexpr(2.0**110)
_INFINITY = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(float.fromhex("0x1.fffffep+127"))


@triton.jit
def exp2(x):
    """2^x, within 2 ulp; 0 below -126.

    It is one instruction, on a unit a quarter or an eighth as wide as the others, and takes as long as the rest of a
    pair's arithmetic. A polynomial would take twelve instructions.
    """
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def inverse_width(logvar):
    """k / σ from log σ², both float64."""
    inverse = tl.exp(-0.5 * logvar) * _K
    return tl.where(inverse > _WIDTH_BOUND, _WIDTH_BOUND, inverse)


@triton.jit
def peak(logvar):
    return -0.5 * logvar * _LOG2_E - _HALF_LOG2_2PI


@triton.jit
def log_weight(dataset_size, posteriors, ESTIMATOR: tl.constexpr):
    """log2 of the weight of all pairs except those that :func:`add_own_weights` changes; float64."""
    if ESTIMATOR == MSS:
        return -tl.log2((posteriors - 1).to(tl.float64))
    else:
        return -tl.log2(dataset_size.to(tl.float64) * posteriors.to(tl.float64))


@triton.jit
def add_own_weights(terms, row, posterior, posteriors, of_own, of_next):
    """``terms`` with the weights of a row's own posterior and of the one after it; ``row`` is its number in the batch."""
    following = tl.where(row + 1 == posteriors, 0, row + 1)
    return terms + tl.where(posterior == row, of_own, tl.where(posterior == following, of_next, 0.0))


@triton.jit
def responsibility(log, grad, weight):
    """(the number to subtract from a row's terms, the factor of their powers), float32.

    The factor is ``grad``, corrected for the rounding of the float64 ``log``, which is the same for all terms of a row.
    """
    exact = log * _LOG2_E - weight
    rounded = exact.to(tl.float32)
    # Infinitely far from every posterior, a row has no responsibilities.
    far = log == -_INFINITY
    factor = tl.where(far, 0.0, tl.exp2(rounded.to(tl.float64) - exact))
    return tl.where(far, _LARGEST, rounded), (grad * factor).to(tl.float32)


@triton.jit
def add_powers(maximum, total, terms, factors):
    """Add Σ factors 2^terms along axis 0 to total 2^maximum, and return the new (maximum, total).

    A NaN does not become the maximum, but makes the total NaN.
    """
    now = tl.maximum(maximum, tl.max(terms, 0))
    base = tl.where(now == -_INFINITY, 0.0, now)  # avoids infinity − infinity
    return now, total * exp2(maximum - base) + tl.sum(factors * exp2(terms - base[None, :]), 0)
