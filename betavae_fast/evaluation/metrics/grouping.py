"""Draws rows that share a factor's class, to fix one factor and vary the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .table import Factors, Rows


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows of a table sorted by class, once for each factor; classes are numbered across all factors."""

    rows: Rows  # (K · N,): for each factor all rows, sorted by its class
    labels: Rows  # (K, N): the class of each row
    starts: Rows  # (classes,): position in ``rows`` at which a class begins
    sizes: Rows  # (classes,): number of rows of a class

    def draw(self, factor: Rows, anchors: Rows, rng: np.random.Generator) -> Rows:
        """Draw, for each anchor row, one of the rows with the same class of ``factor``, uniformly and itself included.

        Args:
            factor, anchors: integer arrays that broadcast together.
        """
        label = self.labels[factor, anchors]
        return self.rows[self.starts[label] + rng.integers(self.sizes[label])]


def group(factors: Factors) -> Groups:
    """Sort the rows of ``factors`` (N, K) by each factor in turn.

    >>> group(np.array([[5, 0], [9, 0], [5, 1]])).rows
    array([0, 2, 1, 0, 1, 2])
    """
    count, columns = factors.shape
    order = np.argsort(factors.T, axis=1, kind="stable")
    by_class = np.take_along_axis(factors.T, order, axis=1)
    begins = np.ones((columns, count), dtype=bool)
    begins[:, 1:] = by_class[:, 1:] != by_class[:, :-1]
    starts = np.flatnonzero(begins)
    labels = np.empty((columns, count), dtype=np.intp)
    np.put_along_axis(labels, order, begins.cumsum().reshape(columns, count) - 1, axis=1)
    return Groups(order.ravel(), labels, starts, np.diff(starts, append=columns * count))
