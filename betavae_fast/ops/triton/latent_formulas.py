"""The clamp of log σ² and the spread of one latent element, with the same operations as in ``csrc/include/latent.h``.

z, the KL and their gradients, a line each, stand in ``latent_kernels.py``.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.numerics import exponential_excess, fma, reduce_exponent


@triton.jit
def clamp(x, low, high):
    """x within [low, high]; NaN compares false with everything, so it stays."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def spread(v):
    """(σ, ½ expm1(v), ½ (expm1(v) − v)) of v = log σ², which KL, sample and their gradients need.

    All three are computed from w = exp(½v − n ln 2) − 1, whose relative error is small even near 0. The last is never
    negative.
    """
    h = 0.5 * v
    upper = tl.where(h > 89.0, 89.0, h)
    n, r, scale = reduce_exponent(upper)
    r2q = exponential_excess(r)
    w = r + r2q
    # e^v = 4^n (1 + w)^2. The scale is halved before it is squared, so that it overflows no earlier than the result.
    half_scale2 = (0.5 * scale) * scale
    finite = fma(half_scale2, fma(w, w, w + w), half_scale2 - 0.5)
    half_expm1 = tl.where(h > 44.7, float("inf"), finite)
    # n = 0: e^v - 1 - v = 2 r^2 q + w^2, a sum of positive terms.
    half_excess = tl.where(n == 0.0, fma(0.5 * w, w, r2q), half_expm1 - upper)
    return scale * (1.0 + w), half_expm1, half_excess
