"""Conversion of factors to an index and back, on the grid of dSprites."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betavae_fast.data import GridFactors
from betavae_fast.data.dsprites import FACTOR_NAMES, FACTOR_VALUES


class Grid(GridFactors):
    name = "grid"
    factor_names = FACTOR_NAMES
    factor_values = FACTOR_VALUES


def test_sizes_and_bases_are_the_published_ones() -> None:
    assert Grid().factor_sizes == (1, 3, 6, 40, 32, 32)
    assert Grid().factor_bases == (737280, 245760, 40960, 1024, 32, 1)


def test_value_tables_are_the_published_ones() -> None:
    _, shape, scale, orientation, x, y = (values.numpy() for values in FACTOR_VALUES)
    assert shape.tolist() == [1, 2, 3]
    assert scale.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert orientation == pytest.approx(2 * np.pi * np.arange(40) / 39)
    assert x == pytest.approx(np.arange(32) / 31)
    assert np.array_equal(x, y)


def test_every_index_round_trips() -> None:
    indices = torch.arange(737280)
    factors = Grid().factors(indices)
    assert torch.equal(Grid().index(factors), indices)
    expected = np.stack(np.unravel_index(np.arange(737280), (1, 3, 6, 40, 32, 32)), axis=1)
    assert np.array_equal(factors.numpy(), expected)


@settings(derandomize=True, deadline=None)
@given(st.tuples(*(st.integers(0, size - 1) for size in (1, 3, 6, 40, 32, 32))))
def test_every_combination_round_trips(classes: tuple[int, ...]) -> None:
    factors = torch.tensor([classes])
    assert torch.equal(Grid().factors(Grid().index(factors)), factors)


@pytest.mark.parametrize(
    ("factors", "error", "told"),
    [
        (
            torch.tensor([[0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]]),
            IndexError,
            "shape has classes 0 to 2, got 3 in row 1",
        ),
        (torch.tensor([[0, 0, 0, 0, 0, -1]]), IndexError, "posY has classes 0 to 31, got -1"),
        (torch.tensor([[0, 0]]), ValueError, r"\(1, 2\)"),
        (torch.tensor([0, 0, 0, 0, 0, 0]), ValueError, r"\(6,\)"),
        (torch.zeros(1, 6), TypeError, "torch.float32"),
        ([[0] * 6], TypeError, "list"),
    ],
    ids=str,
)
def test_wrong_factors_are_refused(factors: object, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Grid().index(factors)  # type: ignore[arg-type]


def test_wrong_indices_are_refused() -> None:
    with pytest.raises(IndexError, match="737280"):
        Grid().factors(torch.tensor([737280]))
