"""The launches of the likelihood op's Triton kernels that are compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS
from betavae_fast.ops.triton import likelihood

_IMAGES = (256, 3, 64, 64)


def _pixels(dtype: torch.dtype, kind: str, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder's output and the target."""
    shape = (4096, 3, 5, 7) if layout == "odd" else _IMAGES
    decoded = torch.empty(shape, dtype=dtype)
    if kind == "bits":
        return decoded, torch.empty(shape[0], -(-decoded[0].numel() // 8), dtype=torch.uint8)
    target = torch.empty(shape, dtype=torch.uint8 if kind == "uint8" else dtype)
    if layout == "channels_last":
        decoded, target = (x.to(memory_format=torch.channels_last) for x in (decoded, target))
    return decoded, target


def _forward(
    reduction: str,
    kind: str = "own",
    layout: str = "contiguous",
    name: str = "bernoulli",
    need_grad: bool = True,
) -> Callable[[torch.dtype], None]:
    def call(dtype: torch.dtype) -> None:
        decoded, target = _pixels(dtype, kind, layout)
        bits = kind == "bits"
        likelihood.likelihood_forward(
            decoded, target, bits, LIKELIHOODS[name], 0.5, REDUCTIONS[reduction], need_grad
        )

    return call


def _backward_sample(dtype: torch.dtype) -> None:
    decoded, target = _pixels(dtype, "own", "contiguous")
    settings = (False, LIKELIHOODS["bernoulli"], 1.0, REDUCTIONS["sample"])
    likelihood.likelihood_backward(torch.empty(len(decoded)), decoded, target, *settings)


def _finish(dtype: torch.dtype) -> None:
    decoded, target = _pixels(dtype, "own", "contiguous")
    settings = (False, LIKELIHOODS["bernoulli"], 1.0, REDUCTIONS["batchmean"])
    likelihood.likelihood_finish(torch.empty_like(decoded), torch.empty(()), decoded, target, *settings)


VARIANTS: dict[str, Callable[[torch.dtype], None]] = {
    "forward batchmean": _forward("batchmean"),
    "forward batchmean, channels last": _forward("batchmean", layout="channels_last"),
    "forward batchmean, uint8": _forward("batchmean", "uint8"),
    "forward batchmean, bits": _forward("batchmean", "bits"),
    "forward batchmean, bits in rows of 105": _forward("batchmean", "bits", "odd"),
    "forward batchmean, gaussian": _forward("batchmean", name="gaussian"),
    "forward sample, no gradient": _forward("sample", need_grad=False),
    "backward sample": _backward_sample,
    "finish batchmean": _finish,
}
FULL_WIDTH = tuple(name for name in VARIANTS if not name.endswith(("uint8", "bits", "105")))
