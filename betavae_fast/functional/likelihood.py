"""The public functions of the pixel likelihoods: −log p(target | decoder's output) in nats."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from betavae_fast.functional.checks import FLOATING, check_reduction, check_tensor, choose_backend
from betavae_fast.ops.backends import Backend
from betavae_fast.ops.likelihood import nll
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS

NllReduction = Literal["batchmean", "sum", "sample", "none"]

_REDUCTIONS = {name: REDUCTIONS[name] for name in ("batchmean", "sum", "sample", "none")}
_SCALES = (1e-15, 1e15)  # within these bounds float32 holds the square of a scale
_SCALARS = (REDUCTIONS["batchmean"], REDUCTIONS["sum"])
_PIXELS = {torch.bool: "bool", torch.uint8: "uint8", **FLOATING}


class PackedBits(NamedTuple):
    """Binary pixels, one bit each: the smallest form that a target can have.

    ``rows`` is uint8 of shape (B, ceil(P / 8)) for B images of P pixels. Pixel p of an image is bit p % 8 (lowest first)
    of byte p // 8; pixels are counted row-major, whatever the decoder's memory format. Spare bits are ignored.

    >>> PackedBits.pack(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 1]], dtype=torch.bool)).rows
    tensor([[1, 1]], dtype=torch.uint8)
    """

    rows: Tensor

    @classmethod
    def pack(cls, pixels: Tensor) -> PackedBits:
        """Pack images (B, ...), in which nonzero pixels are on."""
        count = pixels.shape[1:].numel()
        on = torch.nn.functional.pad((pixels != 0).reshape(len(pixels), count), (0, -count % 8))
        weights = 2 ** torch.arange(8, device=pixels.device)
        return cls((on.view(len(pixels), -(-count // 8), 8) * weights).sum(-1).to(torch.uint8))


Target = Tensor | PackedBits


def bernoulli_nll(
    logits: Tensor,
    target: Target,
    *,
    reduction: NllReduction = "batchmean",
    backend: Backend = "auto",
) -> Tensor:
    r"""−log p(t | x) of Bernoulli pixels, t ∈ {0, 1}, from logits x: max(x, 0) − x t + log1p(exp(−|x|)).

    This is the binary cross-entropy, accurate at any logit. A grey target t ∈ (0, 1) counts as the pixel's probability of
    being on. If a gradient is needed, sigmoid(x) − t, it is written in the same pass over memory.

    Args:
        logits: (B, ...), float16, bfloat16, float32 or float64; any strides.
        target: same shape; bool, uint8 (pixels 0…255, divided by 255), floating point in [0, 1], or :class:`PackedBits`.
            No gradient flows to it.
        reduction: "batchmean" (default) sums over pixels and averages over the batch, a scalar; "sum"; "sample": one sum
            per image, shape (B,); "none".
        backend: as in :func:`betavae_fast.reparameterize_kl`.

    Returns: nats, float32 (float64 for float64 logits).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit, or a target that requires a gradient.
        RuntimeError: a backend that is not available.

    >>> logits, white = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    >>> bernoulli_nll(logits, white)  # 64 ln 2
    tensor(44.3614)
    """
    return _nll("bernoulli_nll", "logits", "bernoulli", logits, target, 1.0, reduction, backend)


def gaussian_nll(
    mean: Tensor,
    target: Target,
    *,
    scale: float = 1.0,
    reduction: NllReduction = "batchmean",
    backend: Backend = "auto",
) -> Tensor:
    r"""−log p(t | x) of Gaussian pixels t ~ N(x, s²): ½ ((x − t) / s)² + log s + ½ log 2π, the constant included.

    Args:
        mean: the decoder's output x, (B, ...), with the dtypes and strides of :func:`bernoulli_nll`'s logits.
        target: as in :func:`bernoulli_nll`, but a floating-point target may have any value.
        scale: standard deviation s, in units of the pixel range [0, 1].
        reduction, backend: as in :func:`bernoulli_nll`.

    Returns, raises: as :func:`bernoulli_nll`; ValueError for a scale outside [1e-15, 1e15].

    >>> gaussian_nll(torch.zeros(2, 3), torch.ones(2, 3), reduction="sample")  # 3 (½ + ½ log 2π)
    tensor([4.2568, 4.2568])

    A scale σ that is learned follows from the loss at scale 1, which is a constant of ½ log 2π per pixel and half the
    squared error:

    >>> import math
    >>> sigma = torch.tensor(0.5, requires_grad=True)
    >>> x, images = torch.zeros(2, 3), torch.ones(2, 3)
    >>> constant = x[0].numel() * 0.5 * math.log(2 * math.pi)
    >>> (gaussian_nll(x, images) - constant) / sigma**2 + x[0].numel() * sigma.log() + constant
    tensor(6.6774, grad_fn=<AddBackward0>)
    >>> gaussian_nll(x, images, scale=0.5)
    tensor(6.6774)
    """
    return _nll("gaussian_nll", "mean", "gaussian", mean, target, scale, reduction, backend)


def laplace_nll(
    mean: Tensor,
    target: Target,
    *,
    scale: float = 1.0,
    reduction: NllReduction = "batchmean",
    backend: Backend = "auto",
) -> Tensor:
    r"""−log p(t | x) of Laplace pixels: |x − t| / s + log 2s. Its gradient at x = t is 0.

    Args:
        mean: the decoder's output x, (B, ...), with the dtypes and strides of :func:`bernoulli_nll`'s logits.
        target: as in :func:`bernoulli_nll`, but a floating-point target may have any value.
        scale: diversity s, in units of the pixel range [0, 1].
        reduction, backend: as in :func:`bernoulli_nll`.

    Returns, raises: as :func:`bernoulli_nll`; ValueError for a scale outside [1e-15, 1e15].

    >>> laplace_nll(torch.zeros(2, 3), torch.ones(2, 3), reduction="sample")  # 3 (1 + log 2)
    tensor([5.0794, 5.0794])
    """
    return _nll("laplace_nll", "mean", "laplace", mean, target, scale, reduction, backend)


def _nll(
    caller: str,
    name: str,
    likelihood: str,
    decoded: Tensor,
    target: Target,
    scale: float,
    reduction: NllReduction,
    backend: Backend,
) -> Tensor:
    check_tensor(caller, name, decoded, FLOATING)
    if decoded.dim() == 0:
        raise ValueError(f"{caller}: {name} must have a batch dimension, got shape ()")
    mode = check_reduction(caller, reduction, _REDUCTIONS)
    packed = isinstance(target, PackedBits)
    pixels = _check_target(caller, name, decoded, target)
    if not isinstance(scale, (int, float)) or isinstance(scale, bool):
        remedy = "a Tensor; the docstring shows how to learn it" if isinstance(scale, Tensor) else None
        raise TypeError(f"{caller}: scale must be a number, got {remedy or repr(scale)[:60]}")
    if not _SCALES[0] <= scale <= _SCALES[1]:
        low, high = _SCALES
        raise ValueError(f"{caller}: scale must lie within [{low:g}, {high:g}], got {scale!r:.60}")
    chosen = choose_backend(caller, decoded, backend)
    settings = (packed, LIKELIHOODS[likelihood], float(scale), mode)
    return nll(decoded, pixels, settings, mode in _SCALARS, chosen)


def _check_target(caller: str, name: str, decoded: Tensor, target: Target) -> Tensor:
    """The target as a tensor of a dtype that kernels read: bool, uint8, ``decoded``'s own, or float32."""
    if isinstance(target, PackedBits):
        rows = target.rows
        check_tensor(caller, "target.rows", rows, {torch.uint8: "uint8"})
        expected = (decoded.shape[0], -(-decoded.shape[1:].numel() // 8))
        if rows.shape != expected:
            raise ValueError(
                f"{caller}: target.rows must have shape {expected} for {name} of shape {tuple(decoded.shape)},"
                f" got {tuple(rows.shape)}"
            )
        pixels = rows.contiguous()
    else:
        check_tensor(caller, "target", target, _PIXELS)
        if target.shape != decoded.shape:
            raise ValueError(
                f"{caller}: {name} and target must have the same shape,"
                f" got {tuple(decoded.shape)} and {tuple(target.shape)}"
            )
        if target.requires_grad:
            raise ValueError(f"{caller}: target must not require a gradient, got target.requires_grad=True")
        pixels = target
        if target.is_floating_point() and target.dtype not in (decoded.dtype, torch.float32):
            pixels = target.to(torch.promote_types(decoded.dtype, torch.float32))
    if pixels.device != decoded.device:
        raise ValueError(
            f"{caller}: {name} and target must be on the same device, got {decoded.device} and {pixels.device}"
        )
    return pixels
