"""The public functions of the latent layer: the sample and the KL."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from betavae_fast.functional.checks import FLOATING, Reduction, check_reduction, check_tensor, choose_backend
from betavae_fast.noise import make_rng
from betavae_fast.ops.backends import Backend
from betavae_fast.ops.latent import latent_forward, latent_forward_packed, latent_kl, latent_sample
from betavae_fast.ops.reductions import REDUCTIONS

_ANY_LOGVAR = (-math.inf, math.inf)


class LatentSample(NamedTuple):
    """A reparameterised sample and the KL of its posterior."""

    z: Tensor
    kl: Tensor


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    reduction: Reduction = "dim",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    first_row: int = 0,
    logvar_range: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> LatentSample:
    r"""Sample z ~ N(μ, σ²) and compute KL(N(μ, σ²) ‖ N(0, I)), both differentiable, in one pass over memory.

    z = μ + exp(½ log σ²) ε with ε ~ N(0, I) (Kingma & Welling 2014, section 2.4); the KL is :func:`gaussian_kl`'s.
    ε is a function of (seed, stream, element index) and has the same bits on every device and backend. It is not stored:
    backward computes it again. Only backend "eager" keeps it.

    Args:
        mu, logvar: posterior mean and log-variance, same shape (B, ...), dtype (float16, bfloat16, float32 or float64)
            and device; any strides.
        reduction: reduction of the KL, see :func:`gaussian_kl`.
        seed: seed of the noise: an int, or the (seed, stream) pair as an int64 tensor of shape (2,) on mu's device. The
            tensor is read when the kernel runs, so that a CUDA graph's replay sees new values. By default the pair is
            drawn from ``generator``, or else from torch's own generator, which ``torch.manual_seed`` seeds.
        noise: ε itself, same shape, dtype and device as mu; no gradient flows to it.
        first_row: index of mu's first row in the whole batch. Shards of a batch that are given their first_row and the
            same seed draw the noise of the whole batch.
        logvar_range: range (lo, hi) to which log σ² is clamped; clamped elements get no gradient.
        backend: "auto", "reference", "eager", "cpp", "triton" or "cuda". If no kernels were built, "auto" uses "eager"
            (plain torch) and warns once; any other backend raises if it cannot run.

    Returns:
        LatentSample(z, kl): z like mu in shape, dtype and memory format; kl in nats, float32 (float64 for float64).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit.
        RuntimeError: a backend that is not available.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> z, kl = reparameterize_kl(torch.zeros(64, 10), torch.zeros(64, 10))
    >>> z.shape, kl.shape, kl.sum()
    (torch.Size([64, 10]), torch.Size([10]), tensor(0.))
    """
    mu, logvar = _check_posterior("reparameterize_kl", mu, logvar)
    mode = check_reduction("reparameterize_kl", reduction, REDUCTIONS)
    low, high = _check_range("reparameterize_kl", logvar_range)
    chosen = choose_backend("reparameterize_kl", mu, backend)
    rng = _check_noise("reparameterize_kl", mu, seed, generator, noise, first_row)
    settings = (first_row, low, high, mode)
    return LatentSample(*latent_forward(mu, logvar, rng, noise, settings, chosen))


def reparameterize_kl_packed(
    packed: Tensor,
    *,
    reduction: Reduction = "dim",
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    logvar_range: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> LatentSample:
    """``reparameterize_kl(*packed.chunk(2, 1), ...)`` whose gradient is written as one tensor, without a concatenation.

    Args:
        packed: (B, 2·C, ...): the C channels of μ, then those of log σ².
        others: as in :func:`reparameterize_kl`.

    Raises: the errors of :func:`reparameterize_kl`; ValueError if dimension 1 is missing or odd.

    >>> packed = torch.zeros(2, 6, requires_grad=True)
    >>> reparameterize_kl_packed(packed, noise=torch.ones(2, 3), reduction="sum").z.sum().backward()
    >>> packed.grad[0]
    tensor([1.0000, 1.0000, 1.0000, 0.5000, 0.5000, 0.5000])
    """
    caller = "reparameterize_kl_packed"
    check_tensor(caller, "packed", packed, FLOATING)
    if packed.dim() < 2 or packed.shape[1] % 2:
        raise ValueError(
            f"{caller}: packed must hold mu and logvar as the halves of dimension 1, got {tuple(packed.shape)}"
        )
    mode = check_reduction(caller, reduction, REDUCTIONS)
    low, high = _check_range(caller, logvar_range)
    chosen = choose_backend(caller, packed, backend)
    rng = _check_noise(caller, packed.chunk(2, 1)[0], seed, None, noise, 0)
    return LatentSample(*latent_forward_packed(packed, rng, noise, (0, low, high, mode), chosen))


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    first_row: int = 0,
    logvar_range: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Sample z = μ + exp(½ log σ²) ε, differentiably (Kingma & Welling 2014, section 2.4).

    Arguments, errors, the noise and the bits of z are those of :func:`reparameterize_kl`.

    Returns: z, like mu in shape, dtype and memory format.

    >>> mu, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
    >>> torch.equal(reparameterize(mu, logvar, seed=1), reparameterize_kl(mu, logvar, seed=1).z)
    True
    """
    mu, logvar = _check_posterior("reparameterize", mu, logvar)
    low, high = _check_range("reparameterize", logvar_range)
    chosen = choose_backend("reparameterize", mu, backend)
    rng = _check_noise("reparameterize", mu, seed, generator, noise, first_row)
    settings = (first_row, low, high, REDUCTIONS["none"])
    return latent_sample(mu, logvar, rng, noise, settings, chosen)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    reduction: Reduction = "dim",
    logvar_range: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""KL(N(μ, σ²) ‖ N(0, I)) in closed form, in nats.

    Per element ½ (μ² + expm1(log σ²) − log σ²) (Kingma & Welling 2014, appendix B), computed so that nothing cancels
    near σ = 1: zero for an unused channel and never negative, in every dtype.

    Args:
        mu, logvar: posterior mean and log-variance, same shape (B, ...), dtype (float16, bfloat16, float32 or float64)
            and device; any strides.
        reduction: "dim" (default) averages over the batch, shape ``mu.shape[1:]``: the capacity of each channel (for a
            spatial latent (B, C, H, W), its ``.flatten(1).sum(1)``). "sample": one sum per row, shape (B,). "batchmean":
            the mean of these sums, a scalar. "sum": the sum of all elements. "none": no reduction.
        logvar_range: range (lo, hi) to which log σ² is clamped; clamped elements get no gradient.
        backend: as in :func:`reparameterize_kl`.

    Returns: float32 (float64 for float64 input).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit.
        RuntimeError: a backend that is not available.

    >>> gaussian_kl(torch.zeros(8, 3), torch.zeros(8, 3))
    tensor([0., 0., 0.])
    >>> gaussian_kl(torch.ones(8, 3), torch.zeros(8, 3), reduction="batchmean")
    tensor(1.5000)
    """
    mu, logvar = _check_posterior("gaussian_kl", mu, logvar)
    mode = check_reduction("gaussian_kl", reduction, REDUCTIONS)
    low, high = _check_range("gaussian_kl", logvar_range)
    chosen = choose_backend("gaussian_kl", mu, backend)
    return latent_kl(mu, logvar, (low, high, mode), chosen)


def _check_posterior(caller: str, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in (("mu", mu), ("logvar", logvar)):
        check_tensor(caller, name, x, FLOATING)
    if mu.shape != logvar.shape:
        raise ValueError(
            f"{caller}: mu and logvar must have the same shape, got {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    if mu.dim() == 0:
        raise ValueError(f"{caller}: mu and logvar must have a batch dimension, got shape ()")
    if mu.device != logvar.device:
        raise ValueError(
            f"{caller}: mu and logvar must be on the same device, got {mu.device} and {logvar.device}"
        )
    if mu.dtype != logvar.dtype:
        if not torch.is_autocast_enabled(mu.device.type):
            raise TypeError(
                f"{caller}: mu and logvar must have the same dtype, got {mu.dtype} and {logvar.dtype}"
            )
        # Under autocast mu and logvar may differ in dtype; the wider one loses nothing.
        dtype = torch.promote_types(mu.dtype, logvar.dtype)
        mu, logvar = mu.to(dtype), logvar.to(dtype)
    return mu, logvar


def _check_range(caller: str, logvar_range: tuple[float, float] | None) -> tuple[float, float]:
    if logvar_range is None:
        return _ANY_LOGVAR
    if not isinstance(logvar_range, (tuple, list)) or len(logvar_range) != 2:
        raise TypeError(
            f"{caller}: logvar_range must be a pair (lo, hi) of numbers, got {logvar_range!r:.60}"
        )
    try:
        low, high = map(float, logvar_range)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{caller}: logvar_range must be a pair (lo, hi) of numbers, got {logvar_range!r:.60}"
        ) from None
    if not low <= high:
        raise ValueError(f"{caller}: logvar_range must be (lo, hi) with lo <= hi, got {logvar_range!r:.60}")
    return low, high


def _check_noise(
    caller: str,
    mu: Tensor,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    noise: Tensor | None,
    first_row: int,
) -> Tensor | None:
    """Check the arguments about noise. Returns the (seed, stream) pair, or None if ``noise`` is given."""
    if seed is None and generator is None and noise is None and type(first_row) is int and first_row == 0:
        return make_rng(mu.device)
    if not isinstance(first_row, int) or isinstance(first_row, bool):
        raise TypeError(f"{caller}: first_row must be an int, got {first_row!r}")
    # From row 0 any tensor fits, and a comparison would make torch.export assume a largest batch.
    last = (first_row + mu.shape[0]) * max(1, mu.shape[1:].numel()) if first_row else 0
    if first_row < 0 or last >= 1 << 63:
        raise ValueError(
            f"{caller}: first_row must be at least 0 and its elements below 2^63, got {first_row}"
        )
    if (seed is not None) + (generator is not None) + (noise is not None) > 1:
        raise ValueError(
            f"{caller}: give at most one of seed, generator and noise, got"
            f" seed={seed!r}, generator={generator!r}, noise={'None' if noise is None else type(noise).__name__}"
        )
    if noise is not None:
        if not isinstance(noise, Tensor):
            raise TypeError(f"{caller}: noise must be a Tensor, got {type(noise).__name__} {noise!r:.60}")
        if noise.dtype != mu.dtype or noise.layout is not torch.strided or noise.is_nested:
            kind = "nested" if noise.is_nested else noise.layout
            raise TypeError(f"{caller}: noise must be strided {mu.dtype} like mu, got {kind} {noise.dtype}")
        if noise.shape != mu.shape or noise.device != mu.device:
            raise ValueError(
                f"{caller}: noise must have mu's shape and device, {tuple(mu.shape)} on {mu.device},"
                f" got {tuple(noise.shape)} on {noise.device}"
            )
        if noise.requires_grad:
            raise ValueError(f"{caller}: noise must not require a gradient, got noise.requires_grad=True")
        return None
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.layout is not torch.strided:
            raise TypeError(f"{caller}: a seed tensor must be strided int64, got {seed.layout} {seed.dtype}")
        if seed.shape != (2,) or seed.device != mu.device:
            raise ValueError(
                f"{caller}: a seed tensor must be (seed, stream), shape (2,) on {mu.device},"
                f" got {tuple(seed.shape)} on {seed.device}"
            )
    elif seed is not None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise TypeError(f"{caller}: seed must be an int or an int64 tensor (seed, stream), got {seed!r}")
        if not -(1 << 63) <= seed < 1 << 64:
            raise ValueError(f"{caller}: seed must lie in [-2^63, 2^64), got {seed}")
    elif generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"{caller}: generator must be a torch.Generator, got {generator!r:.60}")
        if generator.device != mu.device:
            raise ValueError(
                f"{caller}: generator must be on {mu.device} like mu, got one on {generator.device}"
            )
    return make_rng(mu.device, seed=seed, generator=generator)
