"""Packing and unpacking of bits, compared with NumPy's bit functions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.data.bits import bit_table, expand_bytes, pack_bits


@settings(derandomize=True, deadline=None, max_examples=100)
@given(images=st.integers(1, 20), pixels=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_packing_then_expanding_gives_the_pixels_back(images: int, pixels: int, seed: int) -> None:
    on = np.random.default_rng(seed).random((images, pixels)) < 0.5
    packed = pack_bits(on)
    assert np.array_equal(packed, np.packbits(on, axis=1, bitorder="little"))
    expanded = expand_bytes(torch.from_numpy(packed), bit_table()).view(torch.uint8).numpy()
    assert np.array_equal(expanded[:, :pixels], on)
    assert not expanded[:, pixels:].any(), "spare bits must stay off: sums over bytes count them"


def test_any_nonzero_pixel_is_on() -> None:
    assert pack_bits(np.array([[0, 255, 2, 0]], dtype=np.uint8)).tolist() == [[0b0110]]


def test_table_lists_the_bits_of_every_byte_lowest_first() -> None:
    expected = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    assert np.array_equal(bit_table().view(torch.uint8).view(256, 8).numpy(), expected)
