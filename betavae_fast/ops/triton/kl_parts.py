"""The parts of the KL in Triton: one launch forward (two for large batches), one backward.

All arithmetic is float64: the parts are differences of numbers that may be hundreds of nats, and there are few elements
compared with the pairs of the batch.
"""

# mypy: disable-error-code="import-untyped,no-untyped-call,no-untyped-def,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from betavae_fast.ops import kl_parts as plain
from betavae_fast.ops.reductions import kl_dtype
from betavae_fast.ops.triton.registration import register
from betavae_fast.ops.triton.sums import sum_partials

BLOCK, WARPS = 1024, 4
# Blocks that one program adds up. Up to this number, one launch does everything.
BLOCKS_A_PROGRAM = 16
_LOG_2PI = tl.constexpr(plain._LOG_2PI)


@triton.jit
def _element(x, row, col, row_stride, col_stride, inside):
    return tl.load(x + row * row_stride + col * col_stride, mask=inside, other=0.0).to(tl.float64)


_NUMBERS = ["count", "dims", "z_row", "z_col", "mu_row", "mu_col", "logvar_row", "logvar_col", "rows"]


@triton.jit(do_not_specialize=_NUMBERS)
def kl_parts_sums(
    z_ptr, mu_ptr, logvar_ptr, joint_ptr, marginals_ptr, partials_ptr,
    count, dims, z_row, z_col, mu_row, mu_col, logvar_row, logvar_col, rows,
    FLOOR: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write this program's partial sums of the means, (programs, 3). ``joint`` (B,), ``marginals`` (B, D): contiguous."""
    information = tl.zeros((BLOCK,), tl.float64)
    correlation = tl.zeros((BLOCK,), tl.float64)
    of_dimensions = tl.zeros((BLOCK,), tl.float64)
    for block in range(BLOCKS):
        element = (tl.program_id(0).to(tl.int64) * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        inside = element < count
        row, col = element // dims, element % dims
        sample = _element(z_ptr, row, col, z_row, z_col, inside)
        v = _element(logvar_ptr, row, col, logvar_row, logvar_col, inside)
        v = tl.where(v < FLOOR, FLOOR, v)
        n = (sample - _element(mu_ptr, row, col, mu_row, mu_col, inside)) * tl.exp(-0.5 * v)
        conditional = -0.5 * (n * n + v + _LOG_2PI)
        prior = -0.5 * (sample * sample + _LOG_2PI)
        of_joint = tl.load(joint_ptr + row, mask=inside & (col == 0), other=0.0).to(tl.float64)
        marginal = tl.load(marginals_ptr + element, mask=inside, other=0.0).to(tl.float64)
        information += tl.where(inside, conditional - of_joint, 0.0)
        correlation += tl.where(inside, of_joint - marginal, 0.0)
        of_dimensions += tl.where(inside, marginal - prior, 0.0)
    to = partials_ptr + 3 * tl.program_id(0)
    scale = 1 / (rows + tl.zeros((), tl.float64))
    tl.store(to, (tl.sum(information, 0) * scale).to(partials_ptr.dtype.element_ty))
    tl.store(to + 1, (tl.sum(correlation, 0) * scale).to(partials_ptr.dtype.element_ty))
    tl.store(to + 2, (tl.sum(of_dimensions, 0) * scale).to(partials_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=[*_NUMBERS, "grad_stride"])
def kl_parts_gradients(
    grad_ptr, z_ptr, mu_ptr, logvar_ptr, from_z_ptr, from_mu_ptr, from_logvar_ptr,
    grad_z_ptr, grad_mu_ptr, grad_logvar_ptr,
    count, dims, z_row, z_col, mu_row, mu_col, logvar_row, logvar_col, grad_stride, rows,
    FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the complete gradients. from_…: those that came through log q, contiguous; two of them may be None."""
    scale = 1 / (rows + tl.zeros((), tl.float64))
    of_information = tl.load(grad_ptr).to(tl.float64) * scale
    of_dimensions = tl.load(grad_ptr + 2 * grad_stride).to(tl.float64) * scale
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    row, col = element // dims, element % dims
    sample = _element(z_ptr, row, col, z_row, z_col, inside)
    given = _element(logvar_ptr, row, col, logvar_row, logvar_col, inside)
    v = tl.where(given < FLOOR, FLOOR, given)
    inverse = tl.exp(-0.5 * v)
    n = (sample - _element(mu_ptr, row, col, mu_row, mu_col, inside)) * inverse
    pull = n * inverse * of_information
    of_z = _element(from_z_ptr, element, 0, 1, 0, inside) + (of_dimensions * sample - pull)
    of_logvar = 0.5 * of_information * (n * n - 1)
    of_mu = pull
    if from_mu_ptr is not None:
        of_mu += _element(from_mu_ptr, element, 0, 1, 0, inside)
    if from_logvar_ptr is not None:
        of_logvar += _element(from_logvar_ptr, element, 0, 1, 0, inside)
    of_logvar = tl.where(given < FLOOR, 0.0, of_logvar)
    tl.store(grad_z_ptr + element, of_z.to(grad_z_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_mu_ptr + element, of_mu.to(grad_mu_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_logvar_ptr + element, of_logvar.to(grad_logvar_ptr.dtype.element_ty), mask=inside)


def kl_parts(z: Tensor, mu: Tensor, logvar: Tensor, joint: Tensor, marginals: Tensor) -> Tensor:
    count = z.numel()
    if count == 0:
        return plain.kl_parts(z, mu, logvar, joint, marginals)
    blocks = triton.cdiv(count, BLOCK)
    programs = triton.cdiv(blocks, BLOCKS_A_PROGRAM)
    result = z.new_empty(3, dtype=kl_dtype(z.dtype))
    partials = result if programs == 1 else z.new_empty((programs, 3), dtype=torch.float64)
    with torch.cuda.device_of(z):
        kl_parts_sums[(programs,)](
            *(z, mu, logvar, joint.contiguous(), marginals.contiguous(), partials, count, z.shape[1]),
            *(*z.stride(), *mu.stride(), *logvar.stride(), len(z)),
            FLOOR=plain.SMALLEST_LOGVAR[z.dtype],
            BLOCKS=min(triton.next_power_of_2(blocks), BLOCKS_A_PROGRAM),
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
        if programs > 1:
            sum_partials(partials, result, programs, 3, 1)
    return result


def kl_parts_backward(
    grad: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    grad_z: Tensor,
    grad_mu: Tensor | None,
    grad_logvar: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    results = z.new_empty(z.shape), mu.new_empty(mu.shape), logvar.new_empty(logvar.shape)
    count = z.numel()
    if count == 0:
        return results
    given = (None if x is None else x.contiguous() for x in (grad_z, grad_mu, grad_logvar))
    with torch.cuda.device_of(z):
        kl_parts_gradients[(triton.cdiv(count, BLOCK),)](
            *(grad, z, mu, logvar, *given, *results, count, z.shape[1]),
            *(*z.stride(), *mu.stride(), *logvar.stride(), grad.stride(0), len(z)),
            FLOOR=plain.SMALLEST_LOGVAR[z.dtype],
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return results


register(kl_parts, kl_parts_backward, suffix="")
