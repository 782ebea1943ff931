"""The formulas of one pixel, with the same operations as in ``csrc/include/likelihood.h``."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.reductions import LIKELIHOODS
from betavae_fast.ops.triton.numerics import exponential_excess, fma, reciprocal, reduce_exponent

BERNOULLI = tl.constexpr(LIKELIHOODS["bernoulli"])
GAUSSIAN = tl.constexpr(LIKELIHOODS["gaussian"])

# log(1 + e) = e + e² q(e), minimax on [0, 1], lowest power first.
_LOG0 = tl.constexpr(float.fromhex("-0x1.ffff14p-2"))
_LOG1 = tl.constexpr(float.fromhex("0x1.5535d8p-2"))
_LOG2 = tl.constexpr(float.fromhex("-0x1.fd131ap-3"))
_LOG3 = tl.constexpr(float.fromhex("0x1.88443ap-3"))
_LOG4 = tl.constexpr(float.fromhex("-0x1.19ad5ep-3"))
_LOG5 = tl.constexpr(float.fromhex("0x1.446b9ap-4"))
_LOG6 = tl.constexpr(float.fromhex("-0x1.ec9836p-6"))
_LOG7 = tl.constexpr(float.fromhex("0x1.5f95fep-8"))

_INVERSE_255 = tl.constexpr(float.fromhex("0x1.010102p-8"))


@triton.jit
def _log1p(e):
    e2 = e * e
    e4 = e2 * e2
    low = fma(e2, fma(_LOG3, e, _LOG2), fma(_LOG1, e, _LOG0))
    high = fma(e2, fma(_LOG7, e, _LOG6), fma(_LOG5, e, _LOG4))
    return fma(e2, fma(e4, high, low), e)


@triton.jit
def element_nll(x, t, inverse_width, constant, LIKELIHOOD: tl.constexpr):
    """(−log p(t | x), its gradient with respect to x). inverse_width: 1 / s; constant: the log of p's normaliser."""
    if LIKELIHOOD == BERNOULLI:
        # Everything is computed from e^-|x|, which cannot overflow.
        _, r, scale = reduce_exponent(-tl.abs(x))
        e = scale * (1.0 + (r + exponential_excess(r)))
        sigmoid = tl.where(x > 0.0, 1.0, e) * reciprocal(1.0 + e)
        return fma(-t, x, tl.where(x > 0.0, x, 0.0)) + _log1p(e), sigmoid - t
    elif LIKELIHOOD == GAUSSIAN:
        d = (x - t) * inverse_width
        return fma(0.5 * d, d, constant), d * inverse_width
    else:
        d = x - t
        # 0 at x = t. NaN, which compares false with everything, stays.
        slope = tl.where(d > 0.0, inverse_width, tl.where(d < 0.0, -inverse_width, d))
        return fma(tl.abs(d), inverse_width, constant), slope


@triton.jit
def pixel(byte):
    """byte / 255, correctly rounded, without a division."""
    value = byte.to(tl.float32)
    quotient = value * _INVERSE_255
    return fma(fma(-255.0, quotient, value), _INVERSE_255, quotient)
