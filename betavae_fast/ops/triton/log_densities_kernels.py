"""The kernels over the aggregated posterior's pairs: sums of densities, gradients, and the sums over the splits.

A program owns OWN rows (or posteriors), one for each thread, and streams tiles of TILE posteriors (or rows) past them,
whose numbers are the same for all threads. A tile's pairs stay in registers. The owned side is axis 1. Program
(block, split) streams the tiles of one split. In tables with a line for the joint, it precedes the lines of the dims.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.addresses import tile_store
from betavae_fast.ops.triton.log_densities_formulas import (
    INVERSE_K2,
    LN_2,
    MSS,
    add_own_weights,
    add_powers,
    exp2,
    log_weight,
)

_INFINITY = tl.constexpr(float("inf"))
_DIMS_AT_ONCE = tl.constexpr(32)
_SIZES = ["row_blocks", "posterior_blocks", "posteriors", "dims", "first_row", "tiles", "split_tiles"]


@triton.jit
def _program(blocks, splits):
    """(block, split, line) of a program. The programs of a line follow each other."""
    number = tl.program_id(0)
    return number % blocks, number // blocks % splits, number // (blocks * splits)


@triton.jit
def _load_pair(tables, d, row, posterior):
    """(t, k / σ) of dim d."""
    z_ptr, center_ptr, inverse_ptr, _, row_columns, posterior_columns = tables
    inverse = tl.load(inverse_ptr + d * posterior_columns + posterior)
    center = tl.load(center_ptr + d * posterior_columns + posterior)
    return (tl.load(z_ptr + d * row_columns + row) - center) * inverse, inverse


@triton.jit
def _load_peak(tables, line, posterior):
    _, _, _, peak_ptr, _, posterior_columns = tables
    return tl.load(peak_ptr + line * posterior_columns + posterior)


# Backward computes a term by the same operations as forward and subtracts the logarithm last, so that responsibilities
# sum to one whatever a term's rounding. fma is written out, because the compiler might fuse in one place only.
@triton.jit
def _joint_terms(tables, row, posterior, dims):
    """The peak minus t² of all dims, summed some at a time, because a single float32 sum of hundreds drifts."""
    terms = tl.broadcast(_load_peak(tables, 0, posterior), row)[0]
    for first in range(0, dims, _DIMS_AT_ONCE):
        distance = tl.zeros_like(terms)
        for d in range(first, tl.minimum(first + _DIMS_AT_ONCE, dims)):
            t, _ = _load_pair(tables, d, row, posterior)
            distance = tl.fma(t, t, distance)
        terms -= distance
    return terms


@triton.jit
def _dim_terms(tables, d, row, posterior):
    """(peak − t², t, k / σ) of dim d."""
    t, inverse = _load_pair(tables, d, row, posterior)
    return tl.fma(-t, t, _load_peak(tables, d + 1, posterior)), t, inverse


@triton.jit
def _is_near(row_start, rows, posterior_start, posteriors, pair_weights, ESTIMATOR: tl.constexpr):
    """Tell whether a pair of these rows and posteriors may have a weight of its own, which happens in few tiles."""
    if ESTIMATOR == MSS:
        row_start += pair_weights[0]
        past, ahead = row_start + rows < posterior_start, posterior_start + posteriors <= row_start
        # The last posterior is followed by the first.
        return (posterior_start == 0) | ((past | ahead) == 0)
    else:
        return False


@triton.jit
def _weighted(terms, row, posterior, pair_weights):
    first_row, posteriors, of_own, of_next = pair_weights
    return add_own_weights(terms, first_row + row, posterior, posteriors, of_own, of_next)


@triton.jit(do_not_specialize=_SIZES)
def sum_densities(
    z_ptr, center_ptr, inverse_ptr, peak_ptr, maxima_ptr, totals_ptr,
    row_blocks, posterior_blocks, posteriors, dims, first_row, tiles, split_tiles, of_own, of_next,
    ESTIMATOR: tl.constexpr, OWN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the maximum and the total of a line's densities, (lines, splits, columns).

    Each dim makes a pass over the pairs of its own, so that its sums stay in registers.
    """
    row_columns = (row_blocks * OWN).to(tl.int64)
    tables = (z_ptr, center_ptr, inverse_ptr, peak_ptr, row_columns, (posterior_blocks * OWN).to(tl.int64))
    pair_weights = (first_row, posteriors, of_own, of_next)
    splits = tl.cdiv(tiles, split_tiles)
    # The joint's programs take longest, and begin first.
    block, split, line = _program(row_blocks, splits)
    row_start = block * OWN
    column = row_start + tl.arange(0, OWN)
    maximum, total = tl.full([OWN], -_INFINITY, tl.float32), tl.zeros([OWN], tl.float32)
    for tile in range(split * split_tiles, tl.minimum(tiles, (split + 1) * split_tiles)):
        row, posterior = column[None, :], (tile * TILE + tl.arange(0, TILE))[:, None]
        if line == 0:
            terms = _joint_terms(tables, row, posterior, dims)
        else:
            terms, _, _ = _dim_terms(tables, line - 1, row, posterior)
        if _is_near(row_start, OWN, tile * TILE, TILE, pair_weights, ESTIMATOR):
            terms = _weighted(terms, row, posterior, pair_weights)
        maximum, total = add_powers(maximum, total, terms, 1.0)
    at = (line * splits + split) * row_columns + column
    tl.store(maxima_ptr + at, maximum)
    tl.store(totals_ptr + at, total)


@triton.jit(do_not_specialize=["rows", "posteriors", "dims", "blocks", "splits", "dataset_size"])
def finish_densities(
    maxima_ptr, totals_ptr, joint_ptr, marginals_ptr, rows, posteriors, dims, blocks, splits, dataset_size,
    ESTIMATOR: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """Write the natural logarithms of one line, summed over the splits."""
    columns = (blocks * OWN).to(tl.int64)
    block, _, line = _program(blocks, 1)
    row = block.to(tl.int64) * OWN + tl.arange(0, OWN)
    maximum, total = tl.full([OWN], -_INFINITY, tl.float32), tl.zeros([OWN], tl.float32)
    for split in range(splits):
        at = ((line * splits + split) * columns + row)[None, :]
        maximum, total = add_powers(maximum, total, tl.load(maxima_ptr + at), tl.load(totals_ptr + at))
    weight = log_weight(dataset_size, posteriors, ESTIMATOR)
    log = (maximum.to(tl.float64) + tl.log2(total.to(tl.float64)) + weight) * LN_2
    if line == 0:
        tl.store(joint_ptr + row, log, mask=row < rows)
    else:
        tl.store(marginals_ptr + row * dims + line - 1, log, mask=row < rows)


@triton.jit
def _joint_gradients(grad_ptr, log_ptr, tables, row, posterior, pair_weights, dims, NEAR: tl.constexpr):
    """The pairs' g_i p_ij."""
    terms = _joint_terms(tables, row, posterior, dims)
    if NEAR:
        terms = _weighted(terms, row, posterior, pair_weights)
    return tl.load(grad_ptr + row) * exp2(terms - tl.load(log_ptr + row))


@triton.jit
def _pair_gradients(joint, grad_ptr, log_ptr, tables, d, row, posterior, pair_weights, NEAR: tl.constexpr):
    """(W_ijd, t, k / σ), where ``joint`` is g_i p_ij."""
    terms, t, inverse = _dim_terms(tables, d, row, posterior)
    if NEAR:
        terms = _weighted(terms, row, posterior, pair_weights)
    at = (d + 1) * tables[4] + row
    return tl.load(grad_ptr + at) * exp2(terms - tl.load(log_ptr + at)) + joint, t, inverse


@triton.jit
def _add_row_gradients(
    grad_ptr, log_ptr, tables, grad_z_ptr, row, posterior, pair_weights, dims, NEAR: tl.constexpr
):
    joint = _joint_gradients(grad_ptr, log_ptr, tables, row, posterior, pair_weights, dims, NEAR)
    for d in range(dims):
        w, t, inverse = _pair_gradients(
            joint, grad_ptr, log_ptr, tables, d, row, posterior, pair_weights, NEAR
        )
        to = grad_z_ptr + d * tables[4] + row
        pull = tl.sum(w * t * inverse, 0, keep_dims=True)
        tl.store(to, tl.load(to) - pull * INVERSE_K2)
    # The next call reads what this one has written.
    tl.debug_barrier()


@triton.jit
def _add_posterior_gradients(
    grad_ptr, log_ptr, tables, grad_mu_ptr, grad_logvar_ptr, row, posterior, pair_weights, dims, NEAR: tl.constexpr
):  # fmt: skip
    joint = _joint_gradients(grad_ptr, log_ptr, tables, row, posterior, pair_weights, dims, NEAR)
    for d in range(dims):
        w, t, inverse = _pair_gradients(
            joint, grad_ptr, log_ptr, tables, d, row, posterior, pair_weights, NEAR
        )
        at = d * tables[5] + posterior
        wt = w * t
        pull = inverse * tl.sum(wt, 0, keep_dims=True)
        stretch = tl.sum(wt * t, 0, keep_dims=True) * LN_2 - 0.5 * tl.sum(w, 0, keep_dims=True)
        tl.store(grad_mu_ptr + at, tl.load(grad_mu_ptr + at) + pull * INVERSE_K2)
        tl.store(grad_logvar_ptr + at, tl.load(grad_logvar_ptr + at) + stretch)
    # The next call reads what this one has written.
    tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
def row_gradients(
    grad_ptr, log_ptr, z_ptr, center_ptr, inverse_ptr, peak_ptr, grad_z_ptr,
    row_blocks, posterior_blocks, posteriors, dims, first_row, tiles, split_tiles, of_own, of_next,
    ESTIMATOR: tl.constexpr, OWN: tl.constexpr, TILE: tl.constexpr, NEAR_TILE: tl.constexpr,
):  # fmt: skip
    """Add a split's partial sums of ∂z_id = −Σ_j W_ijd (z_id − μ_jd) / σ²_jd to zeros."""
    row_columns = (row_blocks * OWN).to(tl.int64)
    tables = (z_ptr, center_ptr, inverse_ptr, peak_ptr, row_columns, (posterior_blocks * OWN).to(tl.int64))
    pair_weights = (first_row, posteriors, of_own, of_next)
    start, split = tl.program_id(0) * OWN, tl.program_id(1)
    grad_z_ptr += split * dims * row_columns
    row = (start + tl.arange(0, OWN))[None, :]
    for tile in range(split * split_tiles, tl.minimum(tiles, (split + 1) * split_tiles)):
        if _is_near(start, OWN, tile * TILE, TILE, pair_weights, ESTIMATOR):
            for first in range(0, TILE, NEAR_TILE):
                posterior = (tile * TILE + first + tl.arange(0, NEAR_TILE))[:, None]
                _add_row_gradients(
                    grad_ptr, log_ptr, tables, grad_z_ptr, row, posterior, pair_weights, dims, True
                )
        else:
            posterior = (tile * TILE + tl.arange(0, TILE))[:, None]
            _add_row_gradients(
                grad_ptr, log_ptr, tables, grad_z_ptr, row, posterior, pair_weights, dims, False
            )


@triton.jit(do_not_specialize=_SIZES)
def posterior_gradients(
    grad_ptr, log_ptr, z_ptr, center_ptr, inverse_ptr, peak_ptr, grad_mu_ptr, grad_logvar_ptr,
    row_blocks, posterior_blocks, posteriors, dims, first_row, tiles, split_tiles, of_own, of_next,
    ESTIMATOR: tl.constexpr, OWN: tl.constexpr, TILE: tl.constexpr, NEAR_TILE: tl.constexpr,
):  # fmt: skip
    """Add a split's partial sums of the posteriors' gradients to zeros.

    ∂μ_jd = Σ_i W_ijd (z_id − μ_jd) / σ²_jd and ∂v_jd = Σ_i W_ijd (ln 2 t² − ½).
    """
    posterior_columns = (posterior_blocks * OWN).to(tl.int64)
    tables = (z_ptr, center_ptr, inverse_ptr, peak_ptr, (row_blocks * OWN).to(tl.int64), posterior_columns)
    pair_weights = (first_row, posteriors, of_own, of_next)
    start, split = tl.program_id(0) * OWN, tl.program_id(1)
    grad_mu_ptr += split * dims * posterior_columns
    grad_logvar_ptr += split * dims * posterior_columns
    posterior = (start + tl.arange(0, OWN))[None, :]
    for tile in range(split * split_tiles, tl.minimum(tiles, (split + 1) * split_tiles)):
        if _is_near(tile * TILE, TILE, start, OWN, pair_weights, ESTIMATOR):
            for first in range(0, TILE, NEAR_TILE):
                row = (tile * TILE + first + tl.arange(0, NEAR_TILE))[:, None]
                _add_posterior_gradients(
                    grad_ptr, log_ptr, tables, grad_mu_ptr, grad_logvar_ptr, row, posterior, pair_weights, dims, True
                )  # fmt: skip
        else:
            row = (tile * TILE + tl.arange(0, TILE))[:, None]
            _add_posterior_gradients(
                grad_ptr, log_ptr, tables, grad_mu_ptr, grad_logvar_ptr, row, posterior, pair_weights, dims, False
            )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "dims", "blocks", "splits"])
def finish_gradient(partials_ptr, grad_ptr, rows, dims, blocks, splits, OWN: tl.constexpr):
    """Write the gradients of one dim, summed over the splits."""
    columns = (blocks * OWN).to(tl.int64)
    block, _, d = _program(blocks, 1)
    row = block.to(tl.int64) * OWN + tl.arange(0, OWN)
    total = tl.zeros([OWN], tl.float32)
    for split in range(splits):
        total += tl.load(partials_ptr + (split * dims + d) * columns + row)
    tile_store(grad_ptr + row * dims + d, total, row < rows, True)
