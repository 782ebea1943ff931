"""The arithmetic of all formulas, with the same operations as in ``csrc/include/{numerics,exponential}.h``.

Only correctly rounded operations are used, except in ``reciprocal``, and multiply-adds are fused only where ``fma`` is
written: launches of kernels that promise exact bits pass ``enable_fp_fusion=False``.
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
    """a * b + c, rounded once. The interpreter's own fma rounds twice.

    In float64 the product is exact, and the sum is rounded to odd, so that only the last rounding counts
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
    """Round to nearest, ties to even. The interpreter's own conversion truncates, and errs on subnormal numbers."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True).to(tl.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
        x = tl.where(x == x, bits.to(tl.uint32).to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def reciprocal(x):
    """1 / x for 1 <= x <= 2, within an ulp, without a division's branch for subnormal numbers."""
    if INTERPRETED:
        return 1.0 / x
    else:
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
        return fma(fma(-x, y, 1.0), y, y)


@triton.jit
def reduce_exponent(x):
    """(n, r, 2^n): x = n ln 2 + r, |r| <= ln 2 / 2, for x <= 89; e^x counts as 0 below -88."""
    clamped = tl.where(x < -88.0, -88.0, x)
    # Cody & Waite 1980: n * ln2_high is exact.
    shifted = fma(clamped, _LOG2_E, _TO_INTEGER)
    n = shifted - _TO_INTEGER
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, clamped))
    # 2^n: 0 for n = -127, infinity for 128.
    return n, r, (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exponential_excess(r):
    """e^r − 1 − r for a reduced r: r² q(r)."""
    r2 = r * r
    low, high = fma(_EXP1, r, 0.5), fma(_EXP3, r, _EXP2)
    return r2 * fma(fma(_EXP4, r2, high), r2, low)
