"""The tables that the pair kernels read: float32, with a line for each dim, and columns in whole blocks of BLOCK.

Columns after the last posterior have density 0, and columns after the last row gradient 0, so that no pair needs a mask.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.log_densities_formulas import inverse_width, log_weight, peak, responsibility

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _tile(first, rows, dims, BLOCK: tl.constexpr, DIMS: tl.constexpr):
    """(row, dim, mask of rows that exist, mask of dims that exist) of a program's tile."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dim = (first + tl.arange(0, DIMS)).to(tl.int64)
    return row[:, None], dim[None, :], (row < rows)[:, None], (dim < dims)[None, :]


@triton.jit(
    do_not_specialize=["posteriors", "dims", "blocks", "mu_row", "mu_dim", "logvar_row", "logvar_dim"]
)
def tabulate_posteriors(
    mu_ptr, logvar_ptr, center_ptr, inverse_ptr, peak_ptr,
    posteriors, dims, blocks, mu_row, mu_dim, logvar_row, logvar_dim,
    BLOCK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Tabulate μ, k / σ and the peak, whose first line is the sum of the others."""
    columns = (blocks * BLOCK).to(tl.int64)
    j = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    of_joint = tl.where(j < posteriors, tl.zeros([BLOCK], tl.float64), -_INFINITY)
    for first in range(0, dims, DIMS):
        row, dim, is_row, is_dim = _tile(first, posteriors, dims, BLOCK, DIMS)
        exists, at = is_row & is_dim, dim * columns + row
        mu = tl.load(mu_ptr + row * mu_row + dim * mu_dim, mask=exists, other=0.0)
        logvar = tl.load(logvar_ptr + row * logvar_row + dim * logvar_dim, mask=exists, other=0.0)
        logvar = logvar.to(tl.float64)
        of_dim = peak(logvar)
        of_joint += tl.sum(tl.where(is_dim, of_dim, 0.0), 1)
        tl.store(center_ptr + at, mu.to(tl.float32), mask=is_dim)
        tl.store(inverse_ptr + at, inverse_width(logvar).to(tl.float32), mask=is_dim)
        tl.store(peak_ptr + columns + at, tl.where(is_row, of_dim, -_INFINITY).to(tl.float32), mask=is_dim)
    tl.store(peak_ptr + j, of_joint.to(tl.float32))


@triton.jit(do_not_specialize=["rows", "dims", "blocks", "z_row", "z_dim"])
def tabulate_rows(
    z_ptr, table_ptr, rows, dims, blocks, z_row, z_dim, BLOCK: tl.constexpr, DIMS: tl.constexpr
):
    columns = (blocks * BLOCK).to(tl.int64)
    for first in range(0, dims, DIMS):
        row, dim, is_row, is_dim = _tile(first, rows, dims, BLOCK, DIMS)
        z = tl.load(z_ptr + row * z_row + dim * z_dim, mask=is_row & is_dim, other=0.0)
        tl.store(table_ptr + dim * columns + row, z.to(tl.float32), mask=is_dim)


@triton.jit(
    do_not_specialize=[
        *("rows", "posteriors", "dims", "blocks", "dataset_size"),
        *("grad_joint_row", "grad_row", "grad_dim", "joint_row", "log_row", "log_dim"),
    ]
)
def tabulate_logs(
    grad_joint_ptr, grad_marginals_ptr, joint_ptr, marginals_ptr, grad_ptr, log_ptr,
    rows, posteriors, dims, blocks, dataset_size,
    grad_joint_row, grad_row, grad_dim, joint_row, log_row, log_dim,
    ESTIMATOR: tl.constexpr, BLOCK: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Tabulate the results of :func:`responsibility` for all log-densities. The first line is the joint's."""
    columns = (blocks * BLOCK).to(tl.int64)
    weight = log_weight(dataset_size, posteriors, ESTIMATOR)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    grad = tl.load(grad_joint_ptr + i * grad_joint_row, mask=i < rows, other=0.0)
    log = tl.load(joint_ptr + i * joint_row, mask=i < rows, other=-_INFINITY)
    log, grad = responsibility(log, grad, weight)
    tl.store(grad_ptr + i, grad)
    tl.store(log_ptr + i, log)
    for first in range(0, dims, DIMS):
        row, dim, is_row, is_dim = _tile(first, rows, dims, BLOCK, DIMS)
        exists, at = is_row & is_dim, (dim + 1) * columns + row
        of_dim = tl.load(grad_marginals_ptr + row * grad_row + dim * grad_dim, mask=exists, other=0.0)
        log_of_dim = tl.load(marginals_ptr + row * log_row + dim * log_dim, mask=exists, other=-_INFINITY)
        log_of_dim, of_dim = responsibility(log_of_dim, of_dim, weight)
        tl.store(grad_ptr + at, of_dim, mask=is_dim)
        tl.store(log_ptr + at, log_of_dim, mask=is_dim)
