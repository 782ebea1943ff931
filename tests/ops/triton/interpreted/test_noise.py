"""The noise has the bits of the contract, in the interpreter's arithmetic."""

from __future__ import annotations

import pytest
import torch

from betavae_fast import noise, reparameterize
from tests.layouts import lay_out

SEED = torch.tensor([-(1 << 62) + 12345, (1 << 40) + 7])


@pytest.mark.usefixtures("big_tiles", "poisoned_memory")
@pytest.mark.parametrize(
    ("layout", "features", "first_row"),
    [
        ("contiguous", (128,), 0),
        ("packed", (16,), 5),
        ("contiguous", (37,), 1),
        ("row_strided", (10,), 3),
        ("channels_last", (4, 8, 8), 1 << 33),
    ],
)
def test_bits(layout: str, features: tuple[int, ...], first_row: int) -> None:
    """Each case has 2^18 elements, all together 2^20 and more."""
    row = torch.Size(features).numel()
    zero = torch.zeros(-(-(1 << 18) // row), *features)
    mu, logvar = lay_out(layout, zero, zero)
    z = reparameterize(mu, logvar, seed=SEED, first_row=first_row, backend="triton")
    want = noise.normals(SEED, first_row * row, zero.numel()).view(zero.shape)
    assert torch.equal(z.view(torch.int32), want.view(torch.int32))
