"""Tabulates how codes depend on the known factors of their images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from betavae_fast.data.factors import KnownFactors
from betavae_fast.evaluation.metrics import discretise, entropies, mutual_information_matrix, varying
from betavae_fast.evaluation.metrics.table import Codes, Factors

BINS = 20
"""The number of equal-width bins of a code in which mutual information is estimated."""

_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class FactorTable:
    """The factors that vary, and how codes (N, D) depend on them."""

    names: tuple[str, ...]
    classes: Factors  # (N, K)
    shares: NDArray[np.float64]  # (D, K): mutual information of code and factor over the factor's entropy
    # For each factor (classes, D): mean code of each class, and standard deviations; NaN for a class without images.
    means: tuple[NDArray[np.float64], ...]
    deviations: tuple[NDArray[np.float64], ...]

    def mean_over_grid(self, codes: Codes, rows: str, columns: str) -> NDArray[np.float64]:
        """The mean code (D, rows, columns) of the images of each pair of classes of two factors; NaN without images."""
        first, second = (self.classes[:, self.names.index(name)] for name in (rows, columns))
        height, width = int(first.max()) + 1, int(second.max()) + 1
        return _means(codes, first * width + second, height * width).T.reshape(-1, height, width)


def factor_table(
    codes: Codes, dataset: KnownFactors, rng: np.random.Generator, indices: torch.Tensor | None = None
) -> FactorTable:
    """Make the table from the mean codes of all images of ``dataset``, in its order, or of those at ``indices``.

    The mutual information is estimated from codes in ``BINS`` equal-width bins, over up to 100,000 images drawn without
    replacement.

    Raises: ValueError if no factor varies.
    """
    classes = dataset.factors(torch.arange(len(codes)) if indices is None else indices.cpu()).numpy()
    columns = varying(classes)
    if len(columns) == 0:
        raise ValueError(f"{dataset.name}: no factor varies")
    classes = np.ascontiguousarray(classes[:, columns])
    rows = rng.permutation(len(codes))[:_ROWS]
    information = mutual_information_matrix(discretise(codes[rows], BINS), classes[rows])
    uncertainty = entropies(classes[rows])  # 0 for a factor with a single class among these rows
    shares = np.divide(information, uncertainty, out=np.zeros_like(information), where=uncertainty > 0)
    statistics = [_of_classes(codes, column) for column in classes.T]
    return FactorTable(
        tuple(dataset.factor_names[column] for column in columns),
        classes,
        shares,
        tuple(means for means, _ in statistics),
        tuple(deviations for _, deviations in statistics),
    )


def _of_classes(codes: Codes, classes: Factors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = int(classes.max()) + 1
    means = _means(codes, classes, size)
    squares = _means(np.square(codes, dtype=np.float64), classes, size)
    return means, np.sqrt(np.maximum(squares - np.square(means), 0.0))


def _means(values: Codes, classes: Factors, size: int) -> NDArray[np.float64]:
    """The means of ``values`` over the rows of each class, (size, D); NaN for a class without rows."""
    sums = np.stack([np.bincount(classes, weights=column, minlength=size) for column in values.T], axis=1)
    count = np.bincount(classes, minlength=size)[:, None]
    return np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)
