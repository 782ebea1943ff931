"""The noise of ``betavae_fast.noise`` on the CPU: NumPy draws the same bits in a fraction of the time.

Blocks are drawn in groups that stay in the cache. An fma is an exact product and a sum in float64, rounded to float32.
These two roundings could give another number than the contract's single one. tests/test_noise.py shows that they do not
for any of the 2²⁴ radii and 2²⁴ angles that can occur.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast import noise
from betavae_fast.ops.operators import define, library
from betavae_fast.ops.reductions import widest_dtype

# Blocks in a group: each array of words has 256 kB.
BLOCKS_AT_ONCE = 1 << 14
# Blocks for each thread. With fewer, a thread costs as much as it saves, because torch's own threads keep their cores
# busy for a while.
BLOCKS_A_THREAD = 1 << 15


def _constants(dtype: type[np.generic], *values: float) -> tuple[NDArray[Any], ...]:
    """Arrays without dimensions. NumPy needs twice as long to start with a Python number or a NumPy scalar."""
    return tuple(np.array(value, dtype) for value in values)


_8, _32, _MASK = _constants(np.uint64, 8, 32, 0xFFFFFFFF)
# The multipliers of words 2 and 0, a row each, and the numbers that the rounds add to the key's two halves, a row each.
_MULTIPLIERS = np.array(noise.MULTIPLIERS[::-1], np.uint64)[:, None]
_ROUND_KEYS = np.arange(10, dtype=np.uint64)[:, None, None] * np.array(noise.WEYL, np.uint64)[:, None]
_ONE, _TWO, _EIGHT, _23, _24, _31 = _constants(np.int32, 1, 2, 8, 23, 24, 31)
_SIGN, _SQRT_HALF_BITS = _constants(np.int32, -(1 << 31), noise.SQRT_HALF_BITS)
_UNIT, _ULP, _TWO_LN2 = _constants(np.float32, 1, 2.0**-24, noise.TWO_LN2)
_LOG, _SIN, _COS = (_constants(np.float64, *c) for c in (noise.LOG, noise.SIN, noise.COS))

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]


def philox(seed: int, stream: int, blocks: Words) -> tuple[Words, Words]:
    """``noise.philox`` as two arrays of shape (2, blocks): words 0 and 2 of the blocks, and words 1 and 3."""
    even, odd, products = (np.empty((2, len(blocks)), np.uint64) for _ in range(3))
    np.bitwise_and(blocks, _MASK, out=even[0])
    np.right_shift(blocks, _32, out=odd[0])
    even[1], odd[1] = stream & 0xFFFFFFFF, stream >> 32 & 0xFFFFFFFF
    halves = np.array([[seed & 0xFFFFFFFF], [seed >> 32 & 0xFFFFFFFF]], np.uint64)
    swapped = even[::-1]  # words 2 and 0: in each round, the product of one takes the other's place
    for key in _ROUND_KEYS + halves & _MASK:
        np.multiply(swapped, _MULTIPLIERS, out=products)
        np.right_shift(products, _32, out=even)
        even ^= odd
        even ^= key
        np.bitwise_and(products, _MASK, out=odd)
    return even, odd


def _polynomial(coefficients: tuple[NDArray[Any], ...], x: Floats) -> Floats:
    """Horner's rule in fused multiply-adds. The coefficient of the lowest power comes first."""
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
    bits = ((word >> _8).astype(np.int32) + _ONE).astype(np.float32).view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> _23
    bits -= exponent << _23
    f = bits.view(np.float32)
    f -= _UNIT
    constant = (_24 - exponent).astype(np.float32) * _TWO_LN2
    # The polynomial times f plus the constant: one more step of Horner's rule.
    square = _polynomial((constant, *_LOG), f)
    return np.sqrt(square, out=square)


def box_muller(radius_word: Words, angle_word: Words, first: Floats, second: Floats) -> None:
    """``noise.box_muller``, written into ``first`` and ``second``. Bit operations swap and negate for each quadrant."""
    word = angle_word.astype(np.uint32).view(np.int32)
    t = (word << _TWO >> _EIGHT).astype(np.float32)  # The 24 bits below the top two, as a signed number.
    t *= _ULP
    square = t * t
    cosine, sine = _polynomial(_COS, square), _polynomial(_SIN, square)
    sine *= t
    x, y = cosine.view(np.int32), sine.view(np.int32)
    low_bit_first = word << _ONE
    swap = (x ^ y) & low_bit_first >> _31
    x ^= swap
    y ^= swap
    x ^= (word ^ low_bit_first) & _SIGN
    y ^= word & _SIGN
    radius = _radius(radius_word)
    np.multiply(radius, cosine, out=first)
    np.multiply(radius, sine, out=second)


def normals(rng: Tensor, first: int, count: int) -> Tensor:
    """``noise.normals``, which this calls on a GPU. For a device without float64, the CPU draws the noise."""
    if rng.device.type != "cpu" and widest_dtype(rng.device) == torch.float64:
        return noise.normals(rng, first, count)
    seed, stream = rng.tolist()
    start, stop = first // 4, -(-(first + count) // 4)
    elements = np.empty((stop - start, 2, 2), np.float32)

    def fill(part: tuple[int, int]) -> None:
        for begin in range(*part, BLOCKS_AT_ONCE):
            end = min(begin + BLOCKS_AT_ONCE, part[1])
            even, odd = philox(seed, stream, np.arange(begin, end, dtype=np.uint64))
            pairs = elements[begin - start : end - start].T
            box_muller(even, odd, pairs[0], pairs[1])

    threads = max(1, min(torch.get_num_threads(), (stop - start) // BLOCKS_A_THREAD))
    own, *others = pairwise(start + (stop - start) * i // threads for i in range(threads + 1))
    if others:
        with ThreadPoolExecutor(len(others)) as pool:
            parts = [pool.submit(fill, part) for part in others]
            fill(own)
            for part in parts:
                part.result()
    else:
        fill(own)
    drawn = torch.from_numpy(elements.reshape(-1)[first % 4 : first % 4 + count])
    return drawn.to(rng.device)


def latent_noise(mu: Tensor, rng: Tensor, first_row: int) -> Tensor:
    return normals(rng, first_row * mu.shape[1:].numel(), mu.numel()).view(mu.shape)


# The noise by itself, for backward to find again: to draw it twice would take longer than all the rest.
define("latent_noise_eager", latent_noise, lambda a: a.mu.new_empty(a.mu.shape, dtype=torch.float32))
library.impl("latent_noise_eager", latent_noise, "CompositeExplicitAutograd")
