"""Noise as a pure function of (seed, stream, element index): the same bits on every device and backend.

Element ``e`` of a sequence is word ``e % 4`` of Philox block ``e // 4``, turned into a standard normal by
Box–Muller. Elements are numbered in row-major order of the whole batch, so a shard that starts at row
``first_row`` draws the noise of the whole batch. This module is the readable statement of that contract; the
kernels restate it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

# Minimax coefficients, lowest power first, derived by tools/fit_polynomials.py.
LOG = tuple(
    float.fromhex(c)
    for c in (
        "-0x1.000144p+1",
        "0x1.ffdba8p-1",
        "-0x1.5406cap-1",
        "0x1.047a18p-1",
        "-0x1.cc3eaap-2",
        "0x1.2b0e74p-2",
    )
)
SIN = tuple(float.fromhex(c) for c in ("0x1.921fb4p+0", "-0x1.4abba8p-1", "0x1.465a3ep-4", "-0x1.2cf5d4p-8"))
COS = tuple(float.fromhex(c) for c in ("0x1p+0", "-0x1.3bd3a2p+0", "0x1.03b162p-2", "-0x1.4ea9eap-6"))
TWO_LN2 = float.fromhex("0x1.62e43p+0")
SQRT_HALF_BITS = 0x3F3504F3


def make_rng(
    device: torch.device | str,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The (seed, stream) pair that names a noise sequence: int64, shape (2,), on ``device``.

    An int ``seed`` gives (seed, 0), and a pair is returned as it is. Without a seed, both numbers are drawn from
    ``generator``, or else from torch's own, which ``torch.manual_seed`` seeds.

    >>> make_rng("cpu", seed=7)
    tensor([7, 0])
    """
    if seed is None:
        return torch.randint((1 << 63) - 1, (2,), dtype=torch.int64, device=device, generator=generator)
    if isinstance(seed, Tensor):
        return seed
    # Filled on the device: a copy from the host would wait for the GPU, and a CUDA graph cannot record it.
    pair = torch.zeros(2, dtype=torch.int64, device=device)
    pair[0].fill_(seed - (1 << 64) if seed >= 1 << 63 else seed)
    return pair


def philox(rng: Tensor, blocks: Tensor) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): the four words of each block, as int64 in [0, 2³²).

    Args:
        rng: (seed, stream), int64[2]: the key and the counter's high half.
        blocks: int64, any shape: the counter's low half.
    Returns: int64, ``blocks.shape + (4,)``.

    >>> [f"{int(w):08x}" for w in philox(torch.tensor([0, 0]), torch.tensor(0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    seed, stream = rng.to(blocks.device).unbind()
    key = [seed & _MASK, seed >> 32 & _MASK]
    c0, c1 = blocks & _MASK, blocks >> 32 & _MASK
    c2, c3 = (stream & _MASK).expand_as(blocks), (stream >> 32 & _MASK).expand_as(blocks)
    for _ in range(10):
        # The products wrap modulo 2⁶⁴ in int64, which keeps their bits.
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c2 = (product1 >> 32 & _MASK) ^ c1 ^ key[0], (product0 >> 32 & _MASK) ^ c3 ^ key[1]
        c1, c3 = product1 & _MASK, product0 & _MASK
        key = [k + w & _MASK for k, w in zip(key, WEYL, strict=True)]
    return torch.stack((c0, c1, c2, c3), dim=-1)


def fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """``a * b + c`` of float32 values, rounded once.

    In float64 the product is exact and the sum is rounded to odd, so that only the last rounding counts
    (Boldo & Melquiond 2008).
    """
    product = a.double() * b
    total = product + c
    shadow = total - product
    error = (product - (total - shadow)) + (c - shadow)
    bits = total.view(torch.int64)
    outward = error.sign().to(torch.int64) * torch.where(bits < 0, -1, 1)
    return (bits + (~bits & 1) * outward).view(torch.float64).float()


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = fma(value, x, c)
    return value


def _radius(word: Tensor) -> Tensor:
    """sqrt(−2 ln u), u = ((word >> 8) + 1)·2⁻²⁴ in (0, 1]."""
    bits = ((word >> 8) + 1).float().view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1
    square = fma(_polynomial(LOG, f), f, (24 - exponent).float() * TWO_LN2)
    # Not square.sqrt(): torch's float32 root is off by an ulp in 4% of cases (torch 2.13, AVX2). Through float64 it is
    # correctly rounded, as 53 >= 2 * 24 + 2 bits (Figueroa 1995, "When is double rounding innocuous?").
    return square.double().sqrt().float()


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals (r cos, r sin) from two words, float32, each within 2e-6 of exact.

    The angle is (q + t)·π/2: q the top two bits, t the next 24 as a two's-complement fraction in [−½, ½).
    """
    radius = _radius(radius_word)
    fraction = angle_word >> 6 & 0xFFFFFF
    t = torch.where(fraction >= 1 << 23, fraction - (1 << 24), fraction).float() * 2.0**-24
    sine, cosine = _polynomial(SIN, t * t) * t, _polynomial(COS, t * t)
    quadrant = angle_word >> 30
    odd = quadrant % 2 == 1
    first = radius * torch.where(odd, sine, cosine)
    second = radius * torch.where(odd, cosine, sine)
    return (
        torch.where((quadrant == 1) | (quadrant == 2), -first, first),
        torch.where(quadrant >= 2, -second, second),
    )


def normals(rng: Tensor, first: int, count: int) -> Tensor:
    """Elements ``first`` … ``first + count − 1`` of the sequence ``rng``: float32, shape (count,), on rng's
    device.

    >>> torch.equal(normals(make_rng("cpu", seed=1), 6, 3), normals(make_rng("cpu", seed=1), 0, 9)[6:])
    True
    """
    blocks = torch.arange(first // 4, -(-(first + count) // 4), dtype=torch.int64, device=rng.device)
    w0, w1, w2, w3 = philox(rng, blocks).unbind(-1)
    elements = torch.stack((*box_muller(w0, w1), *box_muller(w2, w3)), dim=-1).flatten()
    return elements[first % 4 : first % 4 + count]
