"""The two kernels of the latent op. A program owns one panel of every ``chunks``-th group of rows (see partition.py)."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.addresses import (
    integer_arguments,
    slot_offset,
    slot_place,
    slot_valid,
    tile_load,
    tile_pointers,
    tile_start,
    tile_store,
)
from betavae_fast.ops.triton.latent_formulas import clamp, spread
from betavae_fast.ops.triton.noise import normals
from betavae_fast.ops.triton.numerics import fma
from betavae_fast.ops.triton.sums import ABSENT, DIM, NONE, SAMPLE, SUM, rows_and_cols


def _integers(*tensors: str) -> list[str]:
    return ["rng_stride", "first_element", *integer_arguments(*tensors)]


@triton.jit
def _noise_key(rng_ptr, rng_stride):
    """(seed, stream); unused zeros if there is no noise to draw."""
    if rng_ptr is None:
        return tl.zeros([], tl.uint64), tl.zeros([], tl.uint64)
    else:
        return tl.load(rng_ptr).to(tl.uint64, bitcast=True), tl.load(rng_ptr + rng_stride).to(
            tl.uint64, bitcast=True
        )


@triton.jit
def _phase(first_element, chunk, panel, tile_rows, width, cols, PHASED: tl.constexpr):
    """The position within a Philox block at which the program's tiles begin."""
    if PHASED:
        start = chunk.to(tl.int64) * tile_rows * cols + panel.to(tl.int64) * width
        return ((first_element + start) & 3).to(tl.int32)
    else:
        return 0


@triton.jit(do_not_specialize=_integers("mu", "logvar", "noise", "z", "kl"))
def latent_forward(
    mu_ptr, logvar_ptr, noise_ptr, rng_ptr, z_ptr, kl_ptr,
    rng_stride, first_element, count, rows, groups, cols, inner_size, tile_rows, width, panels, chunks,
    mu_row, mu_outer, mu_inner, logvar_row, logvar_outer, logvar_inner, noise_row, noise_outer, noise_inner,
    z_row, z_outer, z_inner, kl_row, kl_outer, kl_inner,
    logvar_min, logvar_max, divisor,
    KL: tl.constexpr, FINAL: tl.constexpr, CLAMP: tl.constexpr, MASKED: tl.constexpr, PHASED: tl.constexpr,
    PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
    GAPLESS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write z and the KL: its elements, the sums of rows, or this program's partial sums of columns or of all.

    z_ptr None: no sample is written. FINAL: the partial sum is the whole sum.
    """
    chunk, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    seed, stream = _noise_key(rng_ptr, rng_stride)
    phase = _phase(first_element, chunk, panel, tile_rows, width, cols, PHASED)
    slot = tl.arange(0, BLOCK) - phase
    place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
    mu_at = slot_offset(place, slot, (mu_row, mu_outer, mu_inner), FLAT, UNIT)
    logvar_at = slot_offset(place, slot, (logvar_row, logvar_outer, logvar_inner), FLAT, UNIT)
    noise_at = slot_offset(place, slot, (noise_row, noise_outer, noise_inner), FLAT, UNIT)
    z_at = slot_offset(place, slot, (z_row, z_outer, z_inner), FLAT, UNIT)
    kl_at = slot_offset(place, slot, (kl_row, kl_outer, kl_inner), FLAT, UNIT)
    total = tl.zeros([BLOCK], tl.float32)
    for group in range(chunk, groups, chunks):
        row, start, size = tile_start(group, panel, tile_rows, width, cols, count, UNIT)
        valid = slot_valid(slot, size, UNIT)
        mu = tile_load(tile_pointers(mu_ptr, start, row, mu_at, mu_row, FLAT, UNIT), valid, MASKED)
        v = tile_load(tile_pointers(logvar_ptr, start, row, logvar_at, logvar_row, FLAT, UNIT), valid, MASKED)
        if CLAMP:
            v = clamp(v, logvar_min, logvar_max)
        sigma, _, half_excess = spread(v)
        if z_ptr is not None:
            if noise_ptr is not None:
                eps = tile_load(
                    tile_pointers(noise_ptr, start, row, noise_at, noise_row, FLAT, UNIT), valid, MASKED
                )
            else:
                eps = normals(seed, stream, (first_element + start) >> 2, BLOCK, RUN)
            z = fma(sigma, eps, mu)
            tile_store(tile_pointers(z_ptr, start, row, z_at, z_row, FLAT, UNIT), z, valid, MASKED)
        if KL != ABSENT:
            kl = fma(0.5 * mu, mu, half_excess)
            if KL == NONE:
                tile_store(tile_pointers(kl_ptr, start, row, kl_at, kl_row, FLAT, UNIT), kl, valid, MASKED)
            else:
                if MASKED:
                    kl = tl.where(valid, kl, 0.0)
                if KL != SAMPLE:
                    total += kl
                elif PACKED:
                    i = tl.arange(0, ROWS)
                    sums = tl.sum(rows_and_cols(kl, phase, tile_rows, cols, GAPLESS, ROWS, COLS), 1)
                    tl.store(kl_ptr + row + i, sums, mask=(i < tile_rows) & (row + i < rows))
                else:
                    tl.store(kl_ptr + row * panels + panel, tl.sum(kl, 0))
    if KL == DIM:
        if PACKED:
            col = tl.arange(0, COLS)
            exists = col < cols
            partial = tl.sum(rows_and_cols(total, phase, tile_rows, cols, GAPLESS, ROWS, COLS), 0)
        else:
            col = panel.to(tl.int64) * width + slot
            exists = (slot >= 0) & (slot < width) & (col < cols)
            partial = total
        if FINAL:
            partial = tl.div_rn(partial, divisor)
        tl.store(kl_ptr + chunk.to(tl.int64) * cols + col, partial, mask=exists)
    elif KL == SUM:
        partial = tl.sum(total, 0)
        if FINAL:
            partial = tl.div_rn(partial, divisor)
        tl.store(kl_ptr + tl.program_id(0), partial)


@triton.jit(
    do_not_specialize=_integers("mu", "logvar", "noise", "grad_z", "grad_kl", "grad_mu", "grad_logvar")
)
def latent_backward(
    mu_ptr, logvar_ptr, noise_ptr, rng_ptr, grad_z_ptr, grad_kl_ptr, grad_mu_ptr, grad_logvar_ptr,
    rng_stride, first_element, count, rows, groups, cols, inner_size, tile_rows, width, panels, chunks,
    mu_row, mu_outer, mu_inner, logvar_row, logvar_outer, logvar_inner, noise_row, noise_outer, noise_inner,
    grad_z_row, grad_z_outer, grad_z_inner, grad_kl_row, grad_kl_outer, grad_kl_inner,
    grad_mu_row, grad_mu_outer, grad_mu_inner, grad_logvar_row, grad_logvar_outer, grad_logvar_inner,
    logvar_min, logvar_max, kl_scale,
    KL: tl.constexpr, CLAMP: tl.constexpr, MASKED: tl.constexpr, PHASED: tl.constexpr,
    PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of μ and log σ². A pointer that is None leaves its part out.

    KL says what an element of grad_kl belongs to: an element, a column (read once per program), a row, or all.
    """
    chunk, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    seed, stream = _noise_key(rng_ptr, rng_stride)
    phase = _phase(first_element, chunk, panel, tile_rows, width, cols, PHASED)
    slot = tl.arange(0, BLOCK) - phase
    place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
    mu_at = slot_offset(place, slot, (mu_row, mu_outer, mu_inner), FLAT, UNIT)
    logvar_at = slot_offset(place, slot, (logvar_row, logvar_outer, logvar_inner), FLAT, UNIT)
    noise_at = slot_offset(place, slot, (noise_row, noise_outer, noise_inner), FLAT, UNIT)
    grad_z_at = slot_offset(place, slot, (grad_z_row, grad_z_outer, grad_z_inner), FLAT, UNIT)
    grad_kl_at = slot_offset(place, slot, (grad_kl_row, grad_kl_outer, grad_kl_inner), FLAT, UNIT)
    grad_mu_at = slot_offset(place, slot, (grad_mu_row, grad_mu_outer, grad_mu_inner), FLAT, UNIT)
    grad_logvar_at = slot_offset(
        place, slot, (grad_logvar_row, grad_logvar_outer, grad_logvar_inner), FLAT, UNIT
    )
    if KL == DIM or KL == SAMPLE:  # noqa: SIM109 (Triton knows no `in`)
        local_row, outer, inner = slot_place(
            slot, panel, width, cols, inner_size, PACKED, False, SPLIT, 1, WIDE
        )
    if KL == DIM:
        exists = (slot >= 0) & (slot < width)
        if not PACKED:
            exists &= panel.to(tl.int64) * width + slot < cols
        grad_kl = kl_scale * tl.load(
            grad_kl_ptr + outer * grad_kl_outer + inner * grad_kl_inner, mask=exists, other=0.0
        )
    elif KL == SUM:
        grad_kl = kl_scale * tl.load(grad_kl_ptr)
    for group in range(chunk, groups, chunks):
        row, start, size = tile_start(group, panel, tile_rows, width, cols, count, UNIT)
        valid = slot_valid(slot, size, UNIT)
        v = tile_load(tile_pointers(logvar_ptr, start, row, logvar_at, logvar_row, FLAT, UNIT), valid, MASKED)
        if KL == NONE:
            grad_kl = kl_scale * tile_load(
                tile_pointers(grad_kl_ptr, start, row, grad_kl_at, grad_kl_row, FLAT, UNIT), valid, MASKED
            )
        elif KL == SAMPLE:
            grad_kl = kl_scale * tile_load(grad_kl_ptr + (row + local_row) * grad_kl_row, valid, MASKED)
        if grad_z_ptr is not None:
            grad_z = tile_load(
                tile_pointers(grad_z_ptr, start, row, grad_z_at, grad_z_row, FLAT, UNIT), valid, MASKED
            )
        if grad_mu_ptr is not None:
            if KL == ABSENT:
                grad_mu = grad_z
            else:
                mu = tile_load(tile_pointers(mu_ptr, start, row, mu_at, mu_row, FLAT, UNIT), valid, MASKED)
                grad_mu = fma(grad_kl, mu, grad_z) if grad_z_ptr is not None else grad_kl * mu
            grad_mu_to = tile_pointers(grad_mu_ptr, start, row, grad_mu_at, grad_mu_row, FLAT, UNIT)
            tile_store(grad_mu_to, grad_mu, valid, MASKED)
        if grad_logvar_ptr is not None:
            inside = v
            if CLAMP:
                inside = clamp(v, logvar_min, logvar_max)
            sigma, half_expm1, _ = spread(inside)
            if grad_z_ptr is not None:
                if noise_ptr is not None:
                    eps = tile_load(
                        tile_pointers(noise_ptr, start, row, noise_at, noise_row, FLAT, UNIT), valid, MASKED
                    )
                else:
                    eps = normals(seed, stream, (first_element + start) >> 2, BLOCK, RUN)
                grad_logvar = grad_z * (0.5 * sigma * eps)
                if KL != ABSENT:
                    grad_logvar = fma(grad_kl, half_expm1, grad_logvar)
            else:
                grad_logvar = grad_kl * half_expm1
            if CLAMP:
                grad_logvar = tl.where((v < logvar_min) | (v > logvar_max), 0.0, grad_logvar)
            grad_logvar_to = tile_pointers(
                grad_logvar_ptr, start, row, grad_logvar_at, grad_logvar_row, FLAT, UNIT
            )
            tile_store(grad_logvar_to, grad_logvar, valid, MASKED)
