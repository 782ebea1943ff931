"""The launches of the latent op's Triton kernels that are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from betavae_fast.ops.reductions import REDUCTIONS
from betavae_fast.ops.triton import latent


def _posterior(dtype: torch.dtype, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    if layout == "packed":
        return tuple(torch.empty(65536, 256, dtype=dtype).chunk(2, 1))  # type: ignore[return-value]
    if layout == "channels_last":
        make = lambda: torch.empty(16, 4, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        return make(), make()
    cols = {"contiguous": 128, "ten": 10, "odd": 37}[layout]
    return torch.empty(65536, cols, dtype=dtype), torch.empty(65536, cols, dtype=dtype)


_ANY = (-float("inf"), float("inf"))


def _forward(
    layout: str,
    reduction: str,
    *,
    given: bool = False,
    first_row: int = 0,
    limits: tuple[float, float] = _ANY,
) -> Any:
    def call(dtype: torch.dtype) -> None:
        mu, logvar = _posterior(dtype, layout)
        rng, noise = torch.zeros(2, dtype=torch.int64), torch.empty_like(mu) if given else None
        latent.latent_forward(mu, logvar, rng, noise, first_row, *limits, REDUCTIONS[reduction])

    return call


def _sample(dtype: torch.dtype) -> None:
    latent.latent_sample(*_posterior(dtype, "contiguous"), torch.zeros(2, dtype=torch.int64), None, 0, *_ANY)


def _kl(dtype: torch.dtype) -> None:
    latent.latent_kl(*_posterior(dtype, "contiguous"), *_ANY, REDUCTIONS["dim"])


def _backward(layout: str, reduction: str) -> Any:
    def call(dtype: torch.dtype) -> None:
        mu, logvar = _posterior(dtype, layout)
        shape = {"dim": mu.shape[1:], "sample": mu.shape[:1], "sum": (), "none": mu.shape}[reduction]
        rng = torch.zeros(2, dtype=torch.int64)
        grad_z, grad_kl = torch.empty_like(mu), torch.empty(shape)
        latent.latent_backward(
            grad_z, grad_kl, mu, logvar, rng, None, 0, *_ANY, REDUCTIONS[reduction], True, True
        )

    return call


VARIANTS: dict[str, Callable[[torch.dtype], None]] = {
    "forward dim (B, 128)": _forward("contiguous", "dim"),
    "forward dim (B, 128) clamped": _forward("contiguous", "dim", limits=(-10.0, 10.0)),
    "forward dim (B, 128) noise given": _forward("contiguous", "dim", given=True),
    "forward dim (B, 128) packed": _forward("packed", "dim"),
    "forward dim (B, 10)": _forward("ten", "dim"),
    "forward dim (B, 37) odd first row": _forward("odd", "dim", first_row=1),
    "forward dim (B, 4, 64, 64) channels last": _forward("channels_last", "dim"),
    "forward sample (B, 128)": _forward("contiguous", "sample"),
    "forward sum (B, 128)": _forward("contiguous", "sum"),
    "forward none (B, 128)": _forward("contiguous", "none"),
    "sample (B, 128)": _sample,
    "kl dim (B, 128)": _kl,
    "backward dim (B, 128)": _backward("contiguous", "dim"),
    "backward dim (B, 128) packed": _backward("packed", "dim"),
    "backward sample (B, 128)": _backward("contiguous", "sample"),
    "backward none (B, 128)": _backward("contiguous", "none"),
    "backward dim (B, 10)": _backward("ten", "dim"),
}
FULL_WIDTH = tuple(name for name in VARIANTS if "(B, 128)" in name)
