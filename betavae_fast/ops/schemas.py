"""The schema and the fake of every operator, registered once for each backend.

The operators are pure (except those whose schema says what they write) and know nothing of autograd, to which the
modules of ``ops`` connect them. An implementation is called as ``torch.ops.betavae_fast.<op>_<backend>.default``; the
backend's own module (or compiled library) provides it. Operators for a network's layers have one name for all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "betavae_fast"
BACKENDS = ("reference", "eager", "cpp", "triton", "cuda")

# Numbers that stand for reductions, likelihoods and estimators in the operators' arguments.
REDUCTIONS = {"none": 0, "dim": 1, "sample": 2, "batchmean": 3, "sum": 4}
LIKELIHOODS = {"bernoulli": 0, "gaussian": 1, "laplace": 2}
ESTIMATORS = {"mws": 0, "mss": 1}

# rng is (seed, stream), int64[2] on the inputs' device; noise, if given, replaces it.
_NOISE = "Tensor? rng, Tensor? noise, SymInt first_row"
_RANGE = "float logvar_min, float logvar_max"


def kl_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of every KL and NLL: float32, or float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_WITHOUT_FLOAT64 = ("mps",)


def widest_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point dtype of ``device``: float64, or float32 if it lacks float64."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def wide(x: Tensor) -> Tensor:
    """``x`` in the widest dtype of its device."""
    return x.to(widest_dtype(x.device))


def empty_kl(mu: Tensor, reduction: int) -> Tensor:
    """An uninitialised KL of ``mu``'s shape after the reduction; unreduced, it has ``mu``'s memory layout."""
    dtype = kl_dtype(mu.dtype)
    if reduction == REDUCTIONS["none"]:
        return torch.empty_like(mu, dtype=dtype)
    if reduction == REDUCTIONS["dim"]:
        return mu.new_empty(mu.shape[1:], dtype=dtype)
    return mu.new_empty(mu.shape[:1] if reduction == REDUCTIONS["sample"] else (), dtype=dtype)


def _check_devices(mu: Tensor, *others: Tensor | None) -> None:
    """Raise RuntimeError for tensors on several devices.

    A fake is also called for real tensors mixed with meta ones, and must not return unwritten memory as a result.
    """
    for x in others:
        if x is not None and x.device != mu.device:
            raise RuntimeError(f"all tensors must be on one device, {mu.device}, got one on {x.device}")


def _latent_forward(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    _check_devices(mu, logvar, rng, noise)
    return torch.empty_like(mu), empty_kl(mu, reduction)


def _latent_sample(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
) -> Tensor:
    _check_devices(mu, logvar, rng, noise)
    return torch.empty_like(mu)


def _latent_kl(mu: Tensor, logvar: Tensor, logvar_min: float, logvar_max: float, reduction: int) -> Tensor:
    _check_devices(mu, logvar)
    return empty_kl(mu, reduction)


def _latent_backward(
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
    _check_devices(mu, logvar, grad_z, grad_kl, rng, noise)
    return (
        torch.empty_like(mu) if need_mu else mu.new_empty(0),
        torch.empty_like(logvar) if need_logvar else logvar.new_empty(0),
    )


def _latent_backward_packed(
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
    _check_devices(packed, grad_z, grad_kl, rng, noise)
    return torch.empty_like(packed)


def _latent_noise(mu: Tensor, rng: Tensor, first_row: int) -> Tensor:
    _check_devices(mu, rng)
    return mu.new_empty(mu.shape, dtype=torch.float32)


def empty_nll(decoded: Tensor, reduction: int) -> Tensor:
    """An uninitialised NLL of ``decoded``'s shape after the reduction; unreduced, it has ``decoded``'s memory layout."""
    return empty_kl(decoded, reduction)


def _likelihood_forward(
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    _check_devices(decoded, target)
    return empty_nll(decoded, reduction), (torch.empty_like(decoded) if need_grad else decoded.new_empty(0))


def _likelihood_backward(
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> Tensor:
    _check_devices(decoded, target, grad_nll)
    return torch.empty_like(decoded)


def _likelihood_finish(
    grad: Tensor,
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> None:
    _check_devices(decoded, target, grad_nll, grad)


def _total_correlation_forward(
    z: Tensor, mu: Tensor, logvar: Tensor, first_row: int, dataset_size: int, estimator: int
) -> tuple[Tensor, Tensor]:
    _check_devices(mu, logvar, z)
    dtype = widest_dtype(z.device)
    return z.new_empty(z.shape[:1], dtype=dtype), z.new_empty(z.shape, dtype=dtype)


def _total_correlation_backward(
    grad_joint: Tensor,
    grad_marginals: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    joint: Tensor,
    marginals: Tensor,
    first_row: int,
    dataset_size: int,
    estimator: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_devices(mu, logvar, z, grad_joint, grad_marginals, joint, marginals)
    return z.new_empty(z.shape), mu.new_empty(mu.shape), logvar.new_empty(logvar.shape)


def _bias_relu_(x: Tensor, bias: Tensor) -> Tensor:
    _check_devices(x, bias)
    return x.new_empty(1, dtype=torch.int32)


def _bias_relu_backward(
    grad: Tensor, output: Tensor, counter: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check_devices(output, grad, counter)
    return torch.empty_like(output), output.new_empty(output.shape[1], dtype=dtype)


_POSTERIORS = "Tensor z, Tensor mu, Tensor logvar"
_MIXTURE = "SymInt first_row, int dataset_size, int estimator"
_PIXELS = "Tensor decoded, Tensor target, bool packed, int likelihood, float scale, int reduction"

# op -> (signature, fake). A gradient that is not needed is returned without elements.
OPS: dict[str, tuple[str, Callable[..., Any]]] = {
    "latent_forward": (
        f"(Tensor mu, Tensor logvar, {_NOISE}, {_RANGE}, int reduction) -> (Tensor z, Tensor kl)",
        _latent_forward,
    ),
    "latent_sample": (f"(Tensor mu, Tensor logvar, {_NOISE}, {_RANGE}) -> Tensor", _latent_sample),
    "latent_kl": (f"(Tensor mu, Tensor logvar, {_RANGE}, int reduction) -> Tensor", _latent_kl),
    "latent_backward": (
        f"(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, {_NOISE}, {_RANGE}, int reduction,"
        " bool need_mu, bool need_logvar) -> (Tensor grad_mu, Tensor grad_logvar)",
        _latent_backward,
    ),
    # packed (B, 2 C, ...) and its gradient hold mu, then logvar, along dimension 1.
    "latent_backward_packed": (
        f"(Tensor? grad_z, Tensor? grad_kl, Tensor packed, {_NOISE}, {_RANGE}, int reduction) -> Tensor",
        _latent_backward_packed,
    ),
    # grad: the gradient of decoded for a gradient of the NLL of 1 ("batchmean" and "sum").
    "likelihood_forward": (f"({_PIXELS}, bool need_grad) -> (Tensor nll, Tensor grad)", _likelihood_forward),
    "likelihood_backward": (f"(Tensor grad_nll, {_PIXELS}) -> Tensor", _likelihood_backward),
    # Turns the gradient that likelihood_forward left into likelihood_backward's, in place. If grad_nll, which is read on
    # the device, is 1, there is nothing to do.
    "likelihood_finish": (f"(Tensor(a!) grad, Tensor grad_nll, {_PIXELS}) -> ()", _likelihood_finish),
    # z (b, D) is compared with the posteriors mu, logvar (B, D) of a whole batch, in which z's own begin at first_row.
    # joint (b,) and marginals (b, D) are log q(z) and log q(z_d), in float64 if the device has it: backward subtracts
    # them from terms of hundreds of nats, of which an ulp in float32 is 1e-5 of a responsibility. Results are contiguous.
    "total_correlation_forward": (
        f"({_POSTERIORS}, {_MIXTURE}) -> (Tensor joint, Tensor marginals)",
        _total_correlation_forward,
    ),
    "total_correlation_backward": (
        f"(Tensor grad_joint, Tensor grad_marginals, {_POSTERIORS}, Tensor joint, Tensor marginals, {_MIXTURE})"
        " -> (Tensor grad_z, Tensor grad_mu, Tensor grad_logvar)",
        _total_correlation_backward,
    ),
}

# Operators for a network's layers, with one implementation for each kind of device: op -> (signature, fake).
LAYER_OPS: dict[str, tuple[str, Callable[..., Any]]] = {
    # Writes max(x + bias, 0) over x (B, C, ...), contiguous or channels_last; bias (C,) may have another dtype. Returns a
    # counter, int32[1], which is set to zero without a launch of its own.
    "bias_relu_": ("(Tensor(a!) x, Tensor bias) -> Tensor counter", _bias_relu_),
    # Returns the gradients of x, in the output's memory layout, and of the bias, in ``dtype``. With a counter, which is
    # zero before and after, a GPU needs one launch; without one, large batches need a second launch.
    "bias_relu_backward": (
        "(Tensor grad, Tensor output, Tensor(a!)? counter, ScalarType dtype)"
        " -> (Tensor grad_x, Tensor grad_bias)",
        _bias_relu_backward,
    ),
}

library = torch.library.Library(NAMESPACE, "DEF")


def _define(name: str, signature: str, fake: Callable[..., Any]) -> None:
    library.define(f"{name}{signature}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)


for _op, (_signature, _fake) in OPS.items():
    for _backend in BACKENDS:
        _define(f"{_op}_{_backend}", _signature, _fake)
for _op, (_signature, _fake) in LAYER_OPS.items():
    _define(_op, _signature, _fake)
# ε alone, in float32, for the backend that keeps it from forward to backward.
_define("latent_noise_eager", "(Tensor mu, Tensor rng, SymInt first_row) -> Tensor", _latent_noise)
