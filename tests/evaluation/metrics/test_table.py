"""The inputs that a metric accepts, and the errors for other inputs."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation.metrics import varying
from betavae_fast.evaluation.metrics.table import draw, reduce_batches, take
from tests.evaluation.metrics.known import SMALL, WITH_FACTORS, entangled, grid, numbers

FACTORS = grid(rows=60)
CODES = entangled(FACTORS)


def with_value(value: float) -> np.ndarray:
    codes = CODES.copy()
    codes[7, 3] = value
    return codes


@pytest.mark.parametrize("name", WITH_FACTORS)
@pytest.mark.parametrize(
    ("codes", "factors", "error", "message"),
    [
        (CODES[:10], FACTORS[:12], ValueError, "same number of rows, got 10 and 12"),
        (with_value(np.nan), FACTORS, ValueError, "codes must be finite, got nan in row 7, column 3"),
        (with_value(-np.inf), FACTORS, ValueError, "codes must be finite, got -inf in row 7, column 3"),
        (CODES[0], FACTORS, ValueError, r"codes must be a matrix .* got shape \(6,\)"),
        (CODES[:, :0], FACTORS, ValueError, r"codes must be a matrix .* got shape \(60, 0\)"),
        (CODES[:1], FACTORS[:1], ValueError, r"at least 2 rows .* got shape \(1, 6\)"),
        (CODES, FACTORS[:, 0], ValueError, r"factors must be a matrix .* got shape \(60,\)"),
        (CODES, FACTORS[:, :0], ValueError, r"factors must be a matrix .* got shape \(60, 0\)"),
        (
            CODES.tolist(),
            FACTORS,
            TypeError,
            "codes must be a numpy array of floating-point numbers, got list",
        ),
        (FACTORS, FACTORS, TypeError, "codes must be .* got int64"),
        (CODES, FACTORS.astype(float), TypeError, "factors must be .* integer numbers, got float64"),
        (CODES, FACTORS > 0, TypeError, "factors must be .* got bool"),
        (
            CODES,
            np.ones_like(FACTORS),
            ValueError,
            "no factor varies: each of the 3 columns has a single value",
        ),
    ],
)
def test_bad_tables_are_refused(name, codes, factors, error, message):
    with pytest.raises(error, match=message):
        SMALL[name](codes, factors, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "argument", "least"),
    [
        (name, argument, 1)
        for name in WITH_FACTORS
        for argument in ("num_train", "num_test", "batch_size", "num_bins")
        if argument in SMALL[name].func.__kwdefaults__ and (name, argument) != ("factor_vae", "batch_size")
    ]
    + [("factor_vae", "batch_size", 2), ("factor_vae", "num_variance_estimate", 2)],
)
def test_counts_below_the_least_are_refused(name, argument, least):
    with pytest.raises(ValueError, match=f"{argument} must be at least {least}, got {least - 1}"):
        SMALL[name](CODES, FACTORS, np.random.default_rng(0), **{argument: least - 1})


@pytest.mark.parametrize("name", ["mig", "modularity", "irs", "explicitness", "sap", "dci"])
def test_a_factor_must_vary_in_the_rows_drawn(name):
    factors = FACTORS.copy()
    factors[:, 1] = 0
    factors[3, 1] = 1
    with pytest.raises(
        ValueError, match=r"4 rows are too few: of the 3 factors .* number 1 has a single value"
    ):
        SMALL[name](CODES, factors, np.random.default_rng(0), num_train=4)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_constant_factors_are_left_out(name):
    constant = np.full((len(FACTORS), 1), 3)
    more = np.hstack([constant, FACTORS[:, :2], constant, FACTORS[:, 2:]])
    assert varying(more).tolist() == [1, 2, 4]
    assert numbers(name, CODES, more) == numbers(name, CODES, FACTORS)


def test_draw_keeps_codes_and_factors_together():
    codes = np.arange(60, dtype=np.float32)[:, None]
    drawn, classes = draw(codes, np.arange(60)[:, None], 500, np.random.default_rng(0))
    assert drawn.dtype == np.float64
    assert np.array_equal(drawn, classes)
    assert len(np.unique(classes)) == 60


def test_take_is_row_major_whatever_the_layout():
    for codes in (CODES, np.asfortranarray(CODES), CODES[:, ::-1]):
        taken = take(codes, np.array([3, 1, 3]))
        assert taken.flags.c_contiguous
        assert np.array_equal(taken, codes[[3, 1, 3]])


def test_batches_are_reduced_alike_in_one_block_or_in_many(monkeypatch):
    batches = np.random.default_rng(0).integers(60, size=(2, 11, 5))
    expected = np.stack([(CODES[one] * CODES[two]).sum(0) for one, two in zip(*batches, strict=True)])
    for block in (1, 60, 10_000):
        monkeypatch.setattr("betavae_fast.evaluation.metrics.table._BLOCK", block)
        reduced = reduce_batches(lambda one, two: (one * two).sum(axis=1), CODES, *batches)
        assert np.array_equal(reduced, expected)
