"""The aggregated posterior's log-densities in Triton: the tables, the launches, and the sums over the splits."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from math import log2
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from betavae_fast.ops.reductions import ESTIMATORS
from betavae_fast.ops.triton import log_densities_kernels as kernels
from betavae_fast.ops.triton import log_densities_tables as tables
from betavae_fast.ops.triton.registration import refuse_float64, register

# Rows or posteriors that a program owns, one for each thread.
OWN = 128
# TILE posteriors or rows are streamed past them at a time, NEAR_TILE in the few tiles whose pairs have weights of their
# own, which take registers. Without maxnreg, the assembler keeps to 96 or 128 registers and spills some.
SUM_OPTIONS = {"TILE": 16, "maxnreg": 72}
GRADIENT_OPTIONS = {"TILE": 32, "NEAR_TILE": 16, "maxnreg": 168}
# The streamed side is cut into splits until there are MANY_PROGRAMS; each split has results of its own.
MANY_PROGRAMS, MOST_SPLITS = 1024, 16
# No exact bits are promised here, so the compiler may fuse products and sums.
_OPTIONS: dict[str, Any] = {"num_warps": OWN // 32, "enable_fp_fusion": True}
_TABLE_OPTIONS: dict[str, Any] = {"BLOCK": OWN, "DIMS": 16, "num_warps": 8, "enable_fp_fusion": True}


def _blocks(columns: int) -> int:
    return triton.cdiv(columns, OWN)


class _Splits(NamedTuple):
    """The tiles of the streamed side, in splits of ``split_tiles``."""

    number: int
    tiles: int
    split_tiles: int

    @classmethod
    def of(cls, owned: int, streamed: int, tile: int) -> _Splits:
        """Cut by shape alone, so that the same sums are rounded alike on every GPU."""
        tiles = triton.cdiv(streamed, tile)
        most = min(tiles, MOST_SPLITS, triton.cdiv(MANY_PROGRAMS, _blocks(owned)))
        split_tiles = triton.cdiv(tiles, most)
        return cls(triton.cdiv(tiles, split_tiles), tiles, split_tiles)


class _Problem:
    """The rows, posteriors and settings of a call. Tables have a line for each dim, after one for the joint, if any."""

    def __init__(
        self, z: Tensor, mu: Tensor, logvar: Tensor, first_row: int, dataset_size: int, estimator: int
    ) -> None:
        refuse_float64("log_densities", z)
        self.z, self.mu, self.logvar = z, mu, logvar
        self.first_row, self.dataset_size, self.estimator = first_row, dataset_size, estimator
        (self.rows, self.dims), self.posteriors = z.shape, len(mu)

    def table(self, *lines: int, columns: int) -> Tensor:
        return self.z.new_empty(*lines, _blocks(columns) * OWN, dtype=torch.float32)

    def tabulate_posteriors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tables of the posteriors: (μ, k / σ, peak)."""
        n, dims = self.posteriors, self.dims
        center, inverse, peak = (self.table(lines, columns=n) for lines in (dims, dims, dims + 1))
        tables.tabulate_posteriors[(_blocks(n),)](
            *(self.mu, self.logvar, center, inverse, peak),
            *(n, dims, _blocks(n)),
            *(*self.mu.stride(), *self.logvar.stride()),
            **_TABLE_OPTIONS,
        )
        return center, inverse, peak

    def tabulate_rows(self) -> Tensor:
        """The table of z."""
        z = self.table(self.dims, columns=self.rows)
        tables.tabulate_rows[(_blocks(self.rows),)](
            *(self.z, z, self.rows, self.dims, _blocks(self.rows), *self.z.stride()), **_TABLE_OPTIONS
        )
        return z

    def tabulate_logs(
        self, grad_joint: Tensor, grad_marginals: Tensor, joint: Tensor, marginals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tables of the responsibilities' factors, and of the numbers subtracted from their logarithms."""
        grad, log = (self.table(self.dims + 1, columns=self.rows) for _ in range(2))
        tables.tabulate_logs[(_blocks(self.rows),)](
            *(grad_joint, grad_marginals, joint, marginals, grad, log),
            *(self.rows, self.posteriors, self.dims, _blocks(self.rows), self.dataset_size),
            *(*grad_joint.stride(), *grad_marginals.stride(), *joint.stride(), *marginals.stride()),
            ESTIMATOR=self.estimator,
            **_TABLE_OPTIONS,
        )
        return grad, log

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        pointers: tuple[Tensor, ...],
        splits: _Splits,
        **options: Any,
    ) -> None:
        """Launch a kernel over pairs."""
        of_own = of_next = 0.0
        if self.estimator == ESTIMATORS["mss"]:
            # log2 of their weights relative to the others' weight.
            others = self.posteriors - 1
            of_own = log2(others / self.dataset_size)
            of_next = log2((self.dataset_size - others) / self.dataset_size)
        kernel[grid](
            *pointers,
            *(_blocks(self.rows), _blocks(self.posteriors), self.posteriors, self.dims),
            *(self.first_row, splits.tiles, splits.split_tiles, of_own, of_next),
            ESTIMATOR=self.estimator,
            OWN=OWN,
            **options,
            **_OPTIONS,
        )

    def sum_gradient(self, partials: Tensor, like: Tensor) -> Tensor:
        """The sum of the partial sums (splits, dims, columns), with the shape and dtype of ``like``."""
        grad = like.new_empty(like.shape)
        kernels.finish_gradient[(_blocks(len(like)) * self.dims,)](
            *(partials, grad, len(like), self.dims, _blocks(len(like)), len(partials)), OWN=OWN, **_OPTIONS
        )
        return grad


def log_densities_forward(z: Tensor, mu: Tensor, logvar: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    p = _Problem(z, mu, logvar, *settings)
    joint, marginals = (z.new_empty(shape, dtype=torch.float64) for shape in (z.shape[:1], z.shape))
    if p.rows == 0:
        return joint, marginals
    with torch.cuda.device_of(z):
        splits = _Splits.of(p.rows, p.posteriors, SUM_OPTIONS["TILE"])
        maxima, totals = (p.table(p.dims + 1, splits.number, columns=p.rows) for _ in range(2))
        pairs = (p.tabulate_rows(), *p.tabulate_posteriors(), maxima, totals)
        # Only the first axis of a grid can exceed 65,535, and flattened images may have more dims.
        programs = _blocks(p.rows) * (p.dims + 1)
        p.launch(kernels.sum_densities, (programs * splits.number,), pairs, splits, **SUM_OPTIONS)
        kernels.finish_densities[(programs,)](
            *(maxima, totals, joint, marginals),
            *(p.rows, p.posteriors, p.dims, _blocks(p.rows), splits.number, p.dataset_size),
            ESTIMATOR=p.estimator,
            OWN=OWN,
            **_OPTIONS,
        )
    return joint, marginals


def log_densities_backward(
    grad_joint: Tensor,
    grad_marginals: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    joint: Tensor,
    marginals: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    p = _Problem(z, mu, logvar, *settings)
    if z.numel() == 0:
        return z.new_empty(z.shape), mu.new_zeros(mu.shape), logvar.new_zeros(logvar.shape)
    with torch.cuda.device_of(z):
        logs = p.tabulate_logs(grad_joint, grad_marginals, joint, marginals)
        pairs = (*logs, p.tabulate_rows(), *p.tabulate_posteriors())
        tile = GRADIENT_OPTIONS["TILE"]
        splits = _Splits.of(p.rows, p.posteriors, tile)
        grad_z = p.table(splits.number, p.dims, columns=p.rows).zero_()
        grid = _blocks(p.rows), splits.number
        p.launch(kernels.row_gradients, grid, (*pairs, grad_z), splits, **GRADIENT_OPTIONS)
        splits = _Splits.of(p.posteriors, p.rows, tile)
        grads = [p.table(splits.number, p.dims, columns=p.posteriors).zero_() for _ in range(2)]
        grid = _blocks(p.posteriors), splits.number
        p.launch(kernels.posterior_gradients, grid, (*pairs, *grads), splits, **GRADIENT_OPTIONS)
        return p.sum_gradient(grad_z, z), p.sum_gradient(grads[0], mu), p.sum_gradient(grads[1], logvar)


register(log_densities_forward, log_densities_backward)
