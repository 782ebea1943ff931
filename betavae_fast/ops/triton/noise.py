"""The noise of ``betavae_fast.noise`` in Triton, with the same bits: four elements from each Philox block."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.numerics import INTERPRETED, fma

_MULTIPLIER0 = tl.constexpr(0xD2511F53)
_MULTIPLIER1 = tl.constexpr(0xCD9E8D57)
_WEYL0 = tl.constexpr(0x9E3779B9)
_WEYL1 = tl.constexpr(0xBB67AE85)

_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
_TWO_LN2 = tl.constexpr(float.fromhex("0x1.62e43p-23"))  # 2 ln 2 · 2⁻²³
_24_TWO_LN2 = tl.constexpr(float.fromhex("0x1.0a2b24p+5"))
_FRACTION = tl.constexpr(2.0**-24)

# Minimax coefficients, highest power first.
_LOG5 = tl.constexpr(float.fromhex("0x1.2b0e74p-2"))
_LOG4 = tl.constexpr(float.fromhex("-0x1.cc3eaap-2"))
_LOG3 = tl.constexpr(float.fromhex("0x1.047a18p-1"))
_LOG2 = tl.constexpr(float.fromhex("-0x1.5406cap-1"))
_LOG1 = tl.constexpr(float.fromhex("0x1.ffdba8p-1"))
_LOG0 = tl.constexpr(float.fromhex("-0x1.000144p+1"))
_SIN3 = tl.constexpr(float.fromhex("-0x1.2cf5d4p-8"))
_SIN2 = tl.constexpr(float.fromhex("0x1.465a3ep-4"))
_SIN1 = tl.constexpr(float.fromhex("-0x1.4abba8p-1"))
_SIN0 = tl.constexpr(float.fromhex("0x1.921fb4p+0"))
_COS3 = tl.constexpr(float.fromhex("-0x1.4ea9eap-6"))
_COS2 = tl.constexpr(float.fromhex("0x1.03b162p-2"))
_COS1 = tl.constexpr(float.fromhex("-0x1.3bd3a2p+0"))


@triton.jit
def philox(seed, stream, block):
    """Philox4x32-10 (Salmon et al. 2011): the four words of each block. All uint64; seed, stream scalar."""
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = stream.to(tl.uint32), (stream >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * _MULTIPLIER0
        product1 = c2.to(tl.uint64) * _MULTIPLIER1
        c0, c1 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0.to(tl.uint32), product1.to(tl.uint32)
        c2, c3 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1.to(tl.uint32), product0.to(tl.uint32)
        # Only their low words count; the compiler drops the others.
        k0 += _WEYL0
        k1 += _WEYL1
    return c0, c1, c2, c3


@triton.jit
def _sqrt(x):
    """The square root of 0 or of any x >= 2⁻¹⁰⁰, correctly rounded.

    On a GPU these are the operations of sqrt.rn without its branch for numbers that need more care.
    tests/ops/triton/test_budgets.py compares them with the assembler's.
    """
    if INTERPRETED:
        return tl.sqrt_rn(x)
    else:
        y = tl.rsqrt(tl.maximum(x, 1e-30))
        s = x * y
        return fma(fma(-s, s, x), 0.5 * y, s)


@triton.jit
def _radius(word):
    """sqrt(−2 ln u), u = ((word >> 8) + 1)·2⁻²⁴ in (0, 1]."""
    bits = ((word >> 8) + 1).to(tl.int32).to(tl.float32).to(tl.int32, bitcast=True)
    # e is not shifted down and so, as a number, 2²³ times too large. The constant for 2 ln 2 has so few digits that 24
    # times it is exact: (24 − e) 2 ln 2 is rounded once, as a product would be.
    e_bits = (bits - _SQRT_HALF_BITS) & -0x800000
    f = (bits - e_bits).to(tl.float32, bitcast=True) - 1.0
    p = fma(_LOG5, f, _LOG4)
    p = fma(p, f, _LOG3)
    p = fma(p, f, _LOG2)
    p = fma(p, f, _LOG1)
    p = fma(p, f, _LOG0)
    return _sqrt(fma(p, f, fma(e_bits.to(tl.float32), -_TWO_LN2, _24_TWO_LN2)))


@triton.jit
def _normal_pair(radius_word, angle_word):
    """Box–Muller: (r cos, r sin). The angle is (q + t)·π/2: q the top two bits, t the next 24 in [−½, ½)."""
    radius = _radius(radius_word)
    t = ((angle_word << 2).to(tl.int32, bitcast=True) >> 8).to(tl.float32) * _FRACTION
    t2 = t * t
    s = fma(_SIN3, t2, _SIN2)
    s = fma(s, t2, _SIN1)
    s = fma(s, t2, _SIN0) * t
    c = fma(_COS3, t2, _COS2)
    c = fma(c, t2, _COS1)
    c = fma(c, t2, 1.0)
    # Odd quadrants exchange sine and cosine. The radius takes the sign of the sine, negative in quadrants 2 and 3; in odd
    # quadrants the cosine has the opposite sign.
    signed_radius = radius.to(tl.uint32, bitcast=True) ^ (angle_word & 0x80000000)
    signed_radius = signed_radius.to(tl.float32, bitcast=True)
    odd = (angle_word & 0x40000000) != 0
    return signed_radius * tl.where(odd, -s, c), signed_radius * tl.where(odd, c, s)


@triton.jit
def _block_normals(seed, stream, block):
    w0, w1, w2, w3 = philox(seed, stream, block.to(tl.uint64))
    n0, n1 = _normal_pair(w0, w1)
    n2, n3 = _normal_pair(w2, w3)
    return n0, n1, n2, n3


@triton.jit
def normals(seed, stream, first_block, COUNT: tl.constexpr, RUN: tl.constexpr):
    """COUNT normals, from block first_block on.

    A thread holds runs of RUN (4 or 8) normals, the same runs as of the elements that it loads, so that they need not be
    exchanged between threads.
    """
    if RUN == 8:
        even = first_block + 2 * tl.arange(0, COUNT // 8)
        a0, a1, a2, a3 = _block_normals(seed, stream, even)
        b0, b1, b2, b3 = _block_normals(seed, stream, even + 1)
        n0, n1, n2, n3 = tl.join(a0, b0), tl.join(a1, b1), tl.join(a2, b2), tl.join(a3, b3)
    else:
        n0, n1, n2, n3 = _block_normals(seed, stream, first_block + tl.arange(0, COUNT // 4))
    return tl.join(tl.join(n0, n2), tl.join(n1, n3)).reshape(COUNT)
