"""The formulas of one latent element, operation for operation those of ``csrc/include/{numerics,latent}.h``.

Only correctly rounded operations are used, and fused multiply-adds stand where ``fma`` does and nowhere else:
every launch passes ``enable_fp_fusion=False``.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

_LOG2_E = tl.constexpr(float.fromhex("0x1.715476p+0"))
_LN2_HIGH = tl.constexpr(float.fromhex("0x1.62e4p-1"))
_LN2_LOW = tl.constexpr(float.fromhex("0x1.7f7d1cp-20"))
# 3 · 2²² + 127: adding it rounds, and leaves n + 127 in the low bits.
_TO_INTEGER = tl.constexpr(float.fromhex("0x1.8000fep+23"))
# e^r = 1 + r + r² q(r), highest power first; the last is ½.
_EXP4 = tl.constexpr(float.fromhex("0x1.6c69fp-10"))
_EXP3 = tl.constexpr(float.fromhex("0x1.120b1ap-7"))
_EXP2 = tl.constexpr(float.fromhex("0x1.5555bap-5"))
_EXP1 = tl.constexpr(float.fromhex("0x1.5554dep-3"))


@triton.jit
def _fma(a, b, c):
    """a * b + c, rounded once."""
    return tl.fma(a, b, c)


def _interpreted_fma(a, b, c):
    """a * b + c, rounded once; the interpreter's own rounds twice.

    In float64 the product is exact, and the sum rounded to odd leaves only the last rounding to count
    (Boldo & Melquiond 2008).
    """
    zero = tl.zeros([], tl.float64)
    product, c = (zero + a) * b, zero + c
    total = product + c
    shadow = total - product
    error = (product - (total - shadow)) + (c - shadow)
    bits = total.to(tl.int64, bitcast=True)
    outward = (error > 0).to(tl.int64) - (error < 0).to(tl.int64)
    bits += ((bits & 1) ^ 1) * tl.where(bits < 0, -outward, outward)
    return bits.to(tl.float64, bitcast=True).to(tl.float32)


fma = _interpreted_fma if INTERPRETED.value else _fma


@triton.jit
def to_bfloat16(x):
    """Rounded to the nearest, ties to even; the interpreter's own conversion cuts off."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True).to(tl.uint64)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = tl.where(x == x, bits.to(tl.uint32).to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def clamp(x, low, high):
    """x within [low, high]; NaN compares false with everything, so it stays."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def spread(v):
    """(σ, ½ expm1(v), ½ (expm1(v) − v)) of v = log σ²: what KL, sample and their gradients need of it.

    All of it comes out of w = exp(½v − n ln 2) − 1, which is relatively accurate where it is small; the
    last is never negative.
    """
    h = 0.5 * v
    upper = tl.where(h > 89.0, 89.0, h)
    clamped = tl.where(upper < -88.0, -88.0, upper)
    # h = n ln 2 + r, |r| <= ln 2 / 2 (Cody & Waite 1980): n * ln2_high is exact.
    shifted = fma(clamped, _LOG2_E, _TO_INTEGER)
    n = shifted - _TO_INTEGER
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, clamped))
    r2 = r * r
    low, high = fma(_EXP1, r, 0.5), fma(_EXP3, r, _EXP2)
    r2q = r2 * fma(fma(_EXP4, r2, high), r2, low)
    w = r + r2q
    # 2^n: 0 for n = -127, infinity for 128.
    scale = (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    # e^v = 4^n (1 + w)^2; halved before it is squared, so that it overflows no earlier than the result.
    half_scale2 = (0.5 * scale) * scale
    finite = fma(half_scale2, fma(w, w, w + w), half_scale2 - 0.5)
    half_expm1 = tl.where(h > 44.7, float("inf"), finite)
    # n = 0: e^v - 1 - v = 2 r^2 q + w^2, a sum of positive terms.
    half_excess = tl.where(n == 0.0, fma(0.5 * w, w, r2q), half_expm1 - upper)
    return scale * (1.0 + w), half_expm1, half_excess
