"""Conversions from the outputs of various encoders to (μ, log σ²), which the package's functions take.

Splits are views, which the kernels read without a copy.

>>> from betavae_fast import reparameterize_kl
>>> z, kl = reparameterize_kl(*split_interleaved(torch.zeros(8, 3, 2)))
>>> z.shape, kl
(torch.Size([8, 3]), tensor([0., 0., 0.]))
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from betavae_fast.functional.checks import FLOATING, check_tensor
from betavae_fast.ops.reductions import kl_dtype

# Below this, log softplus(x) = x − ½ eˣ to the last bit of float64; far below it, softplus itself underflows.
_SOFTPLUS_IS_EXP = -20.0


def split_halves(packed: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Two views: μ is the first half of dimension ``dim``, log σ² the second.

    Args:
        packed: (B, 2·D, ...), or with 2·D at another ``dim``; floating point, any strides.
    Raises: TypeError if ``packed`` is not a floating-point tensor; ValueError if the dimension is missing or odd.

    >>> mu, logvar = split_halves(torch.arange(8.0).view(1, 2, 4), dim=-1)
    >>> mu
    tensor([[[0., 1.],
             [4., 5.]]])
    """
    check_tensor("split_halves", "packed", packed, FLOATING)
    if not -packed.dim() <= dim < packed.dim() or packed.shape[dim] % 2:
        raise ValueError(
            f"packed must hold the mean in the first half of dimension {dim} and the log-variance in the second; "
            f"got {tuple(packed.shape)}"
        )
    mu, logvar = packed.chunk(2, dim=dim)
    return mu, logvar


def split_interleaved(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Two views (B, D) of pairs (B, D, 2): μ first in each pair, log σ² second.

    Raises: TypeError if ``packed`` is not a floating-point tensor; ValueError if its last dimension is not 2.

    >>> split_interleaved(torch.tensor([[[1.0, -2.0], [3.0, -4.0]]]))
    (tensor([[1., 3.]]), tensor([[-2., -4.]]))
    """
    check_tensor("split_interleaved", "packed", packed, FLOATING)
    if packed.dim() < 2 or packed.shape[-1] != 2:
        raise ValueError(
            f"packed must have shape (B, ..., 2), pairs of mu and logvar; got {tuple(packed.shape)}"
        )
    mu, logvar = packed.unbind(-1)
    return mu, logvar


def from_log_sigma(mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(μ, 2 log σ) from an encoder that outputs log σ. The doubling is exact.

    Raises: TypeError if ``log_sigma`` is not a floating-point tensor.

    >>> from_log_sigma(torch.zeros(2), torch.tensor([0.5, -1.0]))
    (tensor([0., 0.]), tensor([ 1., -2.]))
    """
    check_tensor("from_log_sigma", "log_sigma", log_sigma, FLOATING)
    return mu, 2 * log_sigma


def from_sigma(mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(μ, 2 log σ) from an encoder that outputs σ itself; −∞ for σ = 0, NaN for σ < 0.

    Raises: TypeError if ``sigma`` is not a floating-point tensor.

    >>> from_sigma(torch.zeros(2), torch.tensor([1.0, 0.5]))
    (tensor([0., 0.]), tensor([ 0.0000, -1.3863]))
    """
    check_tensor("from_sigma", "sigma", sigma, FLOATING)
    return mu, 2 * sigma.log()


def from_softplus(mu: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """(μ, 2 log softplus(raw)) from an encoder whose σ is softplus(raw) = log(1 + exp(raw)).

    Value and gradient are finite for every finite ``raw``, even if σ itself underflows.

    Raises: TypeError if ``raw`` is not a floating-point tensor.

    >>> from_softplus(torch.zeros(2), torch.tensor([0.0, -200.0]))
    (tensor([0., 0.]), tensor([  -0.7330, -400.0000]))
    """
    check_tensor("from_softplus", "raw", raw, FLOATING)
    x = raw.to(kl_dtype(raw.dtype))
    small = x < _SOFTPLUS_IS_EXP
    # Each branch gets only values in its range: an infinity in the unused branch would give NaN gradients.
    log_sigma = torch.where(small, x - 0.5 * x.clamp(max=0).exp(), F.softplus(x.masked_fill(small, 0)).log())
    return mu, (2 * log_sigma).to(raw.dtype)
