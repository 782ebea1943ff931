"""The noise contract of ``betavae_fast.noise`` on the CPU: the same bits in a fraction of the time, by NumPy.

Blocks are taken in groups that stay in the cache. An fma is an exact product in float64 and a sum in float64, rounded to
float32. Those are two roundings, which may give another number than the contract's one. They do so for none of the 2²⁴
radii and 2²⁴ angles that there are, as tests/test_noise.py shows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast import noise
from betavae_fast.ops.schemas import library, widest_dtype

# 64 kB an array, of which there are about 20.
BLOCKS_AT_ONCE = 1 << 14

_32, _MASK = np.uint64(32), np.uint64(0xFFFFFFFF)
_M0, _M1 = map(np.uint64, noise.MULTIPLIERS)
_W0, _W1 = map(np.uint64, noise.WEYL)
_SIGN = np.int32(-(1 << 31))

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]


def philox(seed: int, stream: int, blocks: Words) -> tuple[Words, Words]:
    """``noise.philox``: the blocks' words 0 and 2, and their words 1 and 3, each of shape (2, blocks)."""
    even, odd, products = (np.empty((2, len(blocks)), np.uint64) for _ in range(3))
    (c0, c2), (c1, c3), (product1, product0) = even, odd, products
    c0[:], c1[:] = blocks & _MASK, blocks >> _32
    c2[:], c3[:] = stream & 0xFFFFFFFF, stream >> 32 & 0xFFFFFFFF
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        np.multiply(c0, _M0, out=product0)
        np.multiply(c2, _M1, out=product1)
        np.right_shift(products, _32, out=even)
        even ^= odd
        c0 ^= k0
        c2 ^= k1
        np.bitwise_and(products, _MASK, out=odd)
        k0, k1 = k0 + _W0 & _MASK, k1 + _W1 & _MASK
    return even, odd


def _polynomial(coefficients: tuple[float | Floats, ...], x: Floats) -> Floats:
    """Horner's rule in fused multiply-adds; lowest power first."""
    wide_x = x.astype(np.float64)
    total, value = wide_x * coefficients[-1], np.empty_like(x)
    for c in coefficients[-2:0:-1]:
        total += c
        value[...] = total
        total[...] = value
        total *= wide_x
    total += coefficients[0]
    value[...] = total
    return value


def _radius(word: Words) -> Floats:
    bits = ((word >> np.uint64(8)).astype(np.int32) + np.int32(1)).astype(np.float32).view(np.int32)
    exponent = (bits - np.int32(noise.SQRT_HALF_BITS)) >> 23
    bits -= exponent << 23
    f = bits.view(np.float32)
    f -= np.float32(1)
    constant = (24 - exponent).astype(np.float32) * np.float32(noise.TWO_LN2)
    # The polynomial times f plus the constant: one more step of Horner's rule.
    square = _polynomial((constant, *noise.LOG), f)
    return np.sqrt(square, out=square)


def box_muller(radius_word: Words, angle_word: Words, first: Floats, second: Floats) -> None:
    """``noise.box_muller`` into the last two; turning by quadrants swaps and negates by the bits."""
    word = angle_word.astype(np.uint32).view(np.int32)
    t = (word << 2 >> 8).astype(np.float32)  # The 24 bits below the top two, as a signed number.
    t *= np.float32(2.0**-24)
    square = t * t
    cosine, sine = _polynomial(noise.COS, square), _polynomial(noise.SIN, square)
    sine *= t
    x, y = cosine.view(np.int32), sine.view(np.int32)
    low_bit_first = word << 1
    swap = (x ^ y) & low_bit_first >> 31
    x ^= swap
    y ^= swap
    x ^= (word ^ low_bit_first) & _SIGN
    y ^= word & _SIGN
    radius = _radius(radius_word)
    np.multiply(radius, cosine, out=first)
    np.multiply(radius, sine, out=second)


def normals(rng: Tensor, first: int, count: int) -> Tensor:
    """``noise.normals``: on a GPU by that function, for a device that lacks float64 made on the CPU."""
    if rng.device.type != "cpu" and widest_dtype(rng.device) == torch.float64:
        return noise.normals(rng, first, count)
    seed, stream = rng.tolist()
    start, stop = first // 4, -(-(first + count) // 4)
    elements = np.empty((stop - start, 2, 2), np.float32)

    def fill(begin: int) -> None:
        end = min(begin + BLOCKS_AT_ONCE, stop)
        even, odd = philox(seed, stream, np.arange(begin, end, dtype=np.uint64))
        pairs = elements[begin - start : end - start].T
        box_muller(even, odd, pairs[0], pairs[1])

    groups = range(start, stop, BLOCKS_AT_ONCE)
    threads = min(torch.get_num_threads(), len(groups))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, groups))
    else:
        for begin in groups:
            fill(begin)
    drawn = torch.from_numpy(elements.reshape(-1)[first % 4 : first % 4 + count])
    return drawn.to(rng.device)


def latent_noise(mu: Tensor, rng: Tensor, first_row: int) -> Tensor:
    return normals(rng, first_row * mu.shape[1:].numel(), mu.numel()).view(mu.shape)


library.impl("latent_noise_eager", latent_noise, "CompositeExplicitAutograd")
