"""Checks and samples the table of every metric: codes (N, D) and factor classes (N, K) of the same N images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.floating]
Factors = NDArray[np.integer]
Rows = NDArray[np.intp]

_BLOCK = 2**20  # numbers gathered at a time: 8 MiB for any D


class SingleValueError(ValueError):
    """A factor that varies in the table has a single value in the rows drawn, for which no metric is defined.

    Attributes:
        rows: the number of rows drawn.
        factor: the number of the factor, of those that vary.
    """

    def __init__(self, rows: int, factor: int, factors: int) -> None:
        super().__init__(
            f"{rows} rows are too few: of the {factors} factors that vary in the table, number {factor} has a single "
            "value in the rows drawn"
        )
        self.rows, self.factor = rows, factor


def varying(factors: Factors) -> Rows:
    """The columns of the factors that have more than one value. Every metric scores these, in this order.

    Args:
        factors: (N, K) integer classes.
    Returns: (V,) column indices, ascending.
    Raises: TypeError for classes that are not integers, ValueError for another shape.

    >>> varying(np.array([[0, 7, 1], [3, 7, 1], [0, 7, 2]]))
    array([0, 2])
    """
    check_factors(factors)
    return np.flatnonzero((factors != factors[0]).any(axis=0))


def checked(codes: Codes, factors: Factors) -> Factors:
    """Check that a metric can be computed from these codes and factors; return the factors that vary, (N, V).

    Raises: TypeError or ValueError that names the fault, also if no factor varies.
    """
    check_codes(codes)
    columns = varying(factors)
    if len(codes) != len(factors):
        raise ValueError(
            f"codes and factors must have the same number of rows, got {len(codes)} and {len(factors)}"
        )
    if len(columns) == 0:
        raise ValueError(f"no factor varies: each of the {factors.shape[1]} columns has a single value")
    return factors.take(columns, axis=1)


def check_codes(codes: Codes) -> None:
    """Refuse codes that are not a finite floating-point (N ≥ 2, D ≥ 1) array."""
    _check_matrix("codes", codes, "floating-point", kinds="f")
    finite = np.isfinite(codes)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"codes must be finite, got {codes[row, column]} in row {row}, column {column}")


def check_factors(factors: Factors) -> None:
    """Refuse factors that are not an integer (N ≥ 2, K ≥ 1) array."""
    _check_matrix("factors", factors, "integer", kinds="iu")


def check_counts(minimum: int = 1, **counts: int) -> None:
    """Refuse any of the named numbers that is below ``minimum``."""
    for name, count in counts.items():
        if count < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {count}")


def take(codes: Codes, rows: Rows) -> NDArray[np.float64]:
    """``codes[rows]`` in float64 and row-major, so that the order of every sum is the same for any layout."""
    return np.ascontiguousarray(codes[rows], dtype=np.float64)


def draw(
    codes: Codes, factors: Factors, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], Factors]:
    """Draw ``count`` rows uniformly, with replacement.

    Raises: SingleValueError (a ValueError) if a factor has a single value in the rows drawn.
    """
    rows = rng.integers(len(codes), size=count)
    drawn = factors[rows]
    constant = (drawn == drawn[:1]).all(axis=0)
    if constant.any():
        raise SingleValueError(count, int(constant.argmax()), factors.shape[1])
    return take(codes, rows), drawn


def reduce_batches(
    reduce: Callable[..., NDArray[np.float64]], codes: Codes, *batches: Rows
) -> NDArray[np.float64]:
    """Apply ``reduce`` to the codes of P batches of B rows each, in bounded memory.

    Args:
        reduce: takes arrays (p, B, D), one for each of ``batches``, and returns (p, D).
        batches: (P, B) row indices each.
    Returns: (P, D).
    """
    points, size = batches[0].shape
    step = max(1, _BLOCK // (size * codes.shape[1]))
    blocks = [slice(start, start + step) for start in range(0, points, step)]
    return np.concatenate([reduce(*(take(codes, rows[block]) for rows in batches)) for block in blocks])


def _check_matrix(name: str, values: NDArray[np.generic], numbers: str, *, kinds: str) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds:
        got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"{name} must be a numpy array of {numbers} numbers, got {got}")
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
        raise ValueError(f"{name} must be a matrix of at least 2 rows and 1 column, got shape {values.shape}")
