"""The latent operators in Triton: choose the tiles, launch, sum up what the programs left."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from betavae_fast.ops.schemas import REDUCTIONS, empty_kl, library
from betavae_fast.ops.triton import latent_kernels as kernels
from betavae_fast.ops.triton import sums
from betavae_fast.ops.triton.layouts import Layout, are_flat, layout
from betavae_fast.ops.triton.numerics import INTERPRETED
from betavae_fast.ops.triton.sums import launch_sum_parts
from betavae_fast.ops.triton.tiles import Tiling, flat_tiling, row_tiling

_BY_ELEMENT, _BY_COL, _BY_ROW, _IN_ALL = (
    mode.value for mode in (sums.BY_ELEMENT, sums.BY_COL, sums.BY_ROW, sums.IN_ALL)
)
_MODES = {
    REDUCTIONS["none"]: _BY_ELEMENT,
    REDUCTIONS["dim"]: _BY_COL,
    REDUCTIONS["sample"]: _BY_ROW,
    REDUCTIONS["batchmean"]: _IN_ALL,
    REDUCTIONS["sum"]: _IN_ALL,
}
_NO_KL = kernels.NO_KL.value
_MEANS = (REDUCTIONS["dim"], REDUCTIONS["batchmean"])
_NOWHERE = (0, 0, 0)


def _check_dtype(op: str, mu: Tensor) -> None:
    if mu.dtype == torch.float64:
        raise TypeError(
            f"{op}: the triton backend computes in float32, got {mu.dtype};"
            ' use backend="reference", or "cpp" on a CPU'
        )


def _fill_empty(kl: Tensor, rows: int, reduction: int) -> None:
    """The KL of no elements: a mean over no rows is NaN, as torch.mean has it; a sum is 0."""
    kl.fill_(float("nan") if rows == 0 and reduction in _MEANS else 0.0)


def _plan(
    mu: Tensor,
    tensors: list[Tensor],
    shared: Tensor | None,
    by_element: bool,
    first_element: int,
    drawn: bool,
) -> tuple[Tiling, Layout | None, bool]:
    """(tiles, where their elements lie, whether they begin within a Philox block)."""
    strides = [t.stride() for t in tensors]
    phased = drawn and first_element % 4 != 0
    if by_element and are_flat(mu.shape, strides):
        cut = flat_tiling(mu.numel(), phased)
    else:
        rows = mu.shape[0]
        cut = row_tiling(rows, mu.numel() // rows)
        phased |= drawn and cut.tile_rows * cut.cols % 4 != 0
    run = 8 if mu.element_size() == 2 else 4
    place = layout(mu.shape, strides, None if shared is None else shared.stride(), run, cut)
    if phased and place is not None:
        place = place.by_element()
    return cut, place, phased


def _options(cut: Tiling, place: Layout, count: int, low: float, high: float, phased: bool) -> dict[str, Any]:
    """The variant of a kernel, and how it is launched."""
    return {
        "CLAMP": low > -float("inf") or high < float("inf"),
        "PHASED": phased,
        "RUN": max(4, place.unit),
        **place.options(cut, count),
    }


def _forward(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    low: float,
    high: float,
    reduction: int | None,
    want_z: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """(z or None, KL or None)."""
    z = torch.empty_like(mu) if want_z else None
    kl = None if reduction is None else empty_kl(mu, reduction)
    count, rows = mu.numel(), mu.shape[0]
    if count == 0:
        if kl is not None and reduction is not None:
            _fill_empty(kl, rows, reduction)
        return z, kl
    mode = _NO_KL if reduction is None else _MODES[reduction]
    by_element = kl if mode == _BY_ELEMENT else None
    tensors = [t for t in (mu, logvar, noise, z, by_element) if t is not None]
    first_element = first_row * (count // rows)
    cut, place, phased = _plan(
        mu, tensors, None, mode in (_NO_KL, _BY_ELEMENT), first_element, want_z and noise is None
    )
    if place is None:
        packed = _forward(
            mu.contiguous(),
            logvar.contiguous(),
            rng,
            None if noise is None else noise.contiguous(),
            first_row,
            low,
            high,
            reduction,
            want_z,
        )
        return tuple(None if to is None else to.copy_(x) for to, x in zip((z, kl), packed, strict=True))  # type: ignore[return-value, arg-type]
    divisor = float(rows) if reduction in _MEANS else 1.0
    parts = {_BY_COL: cut.chunks, _BY_ROW: cut.panels, _IN_ALL: cut.programs}.get(mode, 1)
    shares = (
        kl if parts == 1 else mu.new_empty(parts * (kl.numel() if kl is not None else 0), dtype=torch.float32)
    )
    strides = iter(place.strides)
    with torch.cuda.device_of(mu):
        kernels.latent_forward[(cut.programs,)](
            mu,
            logvar,
            noise,
            rng if want_z else None,
            z,
            shares,
            0 if rng is None else rng.stride(0),
            first_element,
            *place.arguments(cut, count),
            *(
                n
                for t in (mu, logvar, noise, z, by_element)
                for n in (_NOWHERE if t is None else next(strides))
            ),
            low,
            high,
            divisor,
            KL=mode,
            FINAL=parts == 1,
            GAPLESS=cut.width == cut.block and not phased,
            ROWS=triton.next_power_of_2(cut.tile_rows),
            COLS=triton.next_power_of_2(min(cut.cols, cut.block)),
            **_options(cut, place, count, low, high, phased),
        )
        if parts > 1 and kl is not None and shares is not None:
            by_row = mode == _BY_ROW
            part_stride, col_stride = (1, parts) if by_row else (kl.numel(), 1)
            launch_sum_parts(shares, kl, parts, kl.numel(), part_stride, col_stride, divisor)
    return z, kl


def latent_forward(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    _check_dtype("latent_forward", mu)
    z, kl = _forward(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction, want_z=True)
    assert z is not None and kl is not None
    return z, kl


def latent_sample(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
) -> Tensor:
    _check_dtype("latent_sample", mu)
    z, _ = _forward(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, None, want_z=True)
    assert z is not None
    return z


def latent_kl(mu: Tensor, logvar: Tensor, logvar_min: float, logvar_max: float, reduction: int) -> Tensor:
    _check_dtype("latent_kl", mu)
    _, kl = _forward(mu, logvar, None, None, 0, logvar_min, logvar_max, reduction, want_z=False)
    assert kl is not None
    return kl


def _shared_grad(grad_kl: Tensor, mu: Tensor, mode: int) -> Tensor:
    """The gradient of a column's or a row's KL, seen from each of its elements."""
    if mode == _BY_ROW:
        grad_kl = grad_kl[(..., *(None,) * (mu.dim() - 1))]
    return grad_kl.expand(mu.shape)


def _backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    low: float,
    high: float,
    reduction: int,
    to_mu: Tensor | None,
    to_logvar: Tensor | None,
) -> None:
    """Writes the gradients that are wanted."""
    outputs = [t for t in (to_mu, to_logvar) if t is not None]
    count, rows = mu.numel(), mu.shape[0]
    if count == 0 or not outputs:
        return
    if grad_z is None and grad_kl is None:
        for output in outputs:
            output.zero_()
        return
    mode = _NO_KL if grad_kl is None else _MODES[reduction]
    by_element = grad_kl if mode == _BY_ELEMENT else None
    shared = _shared_grad(grad_kl, mu, mode) if grad_kl is not None and mode in (_BY_COL, _BY_ROW) else None
    drawn = grad_z is not None and to_logvar is not None and noise is None
    if grad_z is None or to_logvar is None:
        noise = None
    operands = (mu, logvar, noise, grad_z, by_element, to_mu, to_logvar)
    tensors = [t for t in operands if t is not None]
    first_element = first_row * (count // rows)
    cut, place, phased = _plan(mu, tensors, shared, shared is None, first_element, drawn)
    if place is None:
        flat = [None if t is None else t.new_empty(t.shape) for t in (to_mu, to_logvar)]
        _backward(
            None if grad_z is None else grad_z.contiguous(),
            None if grad_kl is None else grad_kl.contiguous(),
            mu.contiguous(),
            logvar.contiguous(),
            rng,
            None if noise is None else noise.contiguous(),
            first_row,
            low,
            high,
            reduction,
            *flat,
        )
        for to, x in zip((to_mu, to_logvar), flat, strict=True):
            if to is not None and x is not None:
                to.copy_(x)
        return
    strides = iter(place.strides)
    of_operand = [_NOWHERE if t is None else next(strides) for t in operands]
    if shared is not None:
        of_operand[4] = place.shared_strides
    with torch.cuda.device_of(mu):
        kernels.latent_backward[(cut.programs,)](
            mu,
            logvar,
            noise,
            rng if drawn else None,
            grad_z,
            grad_kl,
            to_mu,
            to_logvar,
            0 if rng is None else rng.stride(0),
            first_element,
            *place.arguments(cut, count),
            *(n for strides in of_operand for n in strides),
            low,
            high,
            1.0 / rows if reduction in _MEANS else 1.0,
            KL=mode,
            **_options(cut, place, count, low, high, phased),
        )


def latent_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
    need_mu: bool,
    need_logvar: bool,
) -> tuple[Tensor, Tensor]:
    _check_dtype("latent_backward", mu)
    grad_mu = torch.empty_like(mu) if need_mu else mu.new_empty(0)
    grad_logvar = torch.empty_like(logvar) if need_logvar else logvar.new_empty(0)
    settings = (first_row, logvar_min, logvar_max, reduction)
    wanted = (grad_mu if need_mu else None, grad_logvar if need_logvar else None)
    _backward(grad_z, grad_kl, mu, logvar, rng, noise, *settings, *wanted)
    return grad_mu, grad_logvar


def latent_backward_packed(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    packed: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
) -> Tensor:
    _check_dtype("latent_backward_packed", packed)
    grad = torch.empty_like(packed)
    mu, logvar = packed.chunk(2, 1)
    settings = (first_row, logvar_min, logvar_max, reduction)
    _backward(grad_z, grad_kl, mu, logvar, rng, noise, *settings, *grad.chunk(2, 1))
    return grad


for _implementation in (latent_forward, latent_sample, latent_kl, latent_backward, latent_backward_packed):
    for _key in ("CUDA", "CPU") if INTERPRETED.value else ("CUDA",):
        library.impl(f"{_implementation.__name__}_triton", _implementation, _key)
