"""A data set so small that a step takes milliseconds."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.data import ByteImages


@pytest.fixture
def dataset() -> ByteImages:
    pixels = torch.randint(
        0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return ByteImages("tiny", pixels, (1, 8, 8))
