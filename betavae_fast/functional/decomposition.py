"""The decomposition of the KL: index-code mutual information, total correlation, dimension-wise KL."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed

from betavae_fast.choices import Estimator
from betavae_fast.functional.checks import FLOATING, check_tensor, choose_backend
from betavae_fast.ops.backends import Backend, triton_serves
from betavae_fast.ops.gradients import transformed
from betavae_fast.ops.log_densities import decomposed_kl
from betavae_fast.ops.reductions import ESTIMATORS, kl_dtype
from betavae_fast.processes import gather_rows


class KLDecomposition(NamedTuple):
    """The parts of E[KL(q(z|x) ‖ p(z))], scalars in nats. Their sum estimates it."""

    mutual_information: Tensor  # I(x; z) under q
    total_correlation: Tensor  # KL(q(z) ‖ Π_d q(z_d)), the dependence between channels
    dimension_wise_kl: Tensor  # Σ_d KL(q(z_d) ‖ p(z_d))


def kl_decomposition(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    dataset_size: int,
    estimator: Estimator = "mss",
    group: distributed.ProcessGroup | None = None,
    backend: Backend = "auto",
) -> KLDecomposition:
    r"""E[KL(q(z|x) ‖ N(0, I))] = I(x; z) + TC(z) + Σ_d KL(q(z_d) ‖ p(z_d)), estimated from a batch (Chen et al. 2018,
    arXiv:1802.04942, equation 2).

    The aggregated posterior q(z) = E_x[q(z|x)] is estimated by a mixture of the batch's posteriors. All B² D densities
    are computed, but none is stored: memory is O(B D), and the backward pass computes them again.

    Args:
        z: a sample of each posterior, (B, ...), as :func:`betavae_fast.reparameterize` returns it.
        mu, logvar: posterior mean and log-variance, same shape, dtype (float16, bfloat16, float32 or float64) and device;
            a log-variance below −150 (float64: −690) is clamped to this bound, and has no gradient.
        dataset_size: number of images N that the batch was drawn from, at least B.
        estimator: weights w_ij of the mixture. "mss" (minibatch stratified sampling): w_ii = 1/N, w_i,i+1 =
            (N − M)/(N M), all others 1/M, with M = B − 1; this is unbiased for q(z), and the rows sum to 1. "mws"
            (minibatch weighted sampling): all 1/(N B), so that the rows sum to 1/N. Then log q is too low by up to
            log N, the mutual information too high by up to log N, and the total correlation too high by up to
            (D − 1) log N. A constant offset does not change gradients, but values can only be compared for the same
            estimator, N and B. From few images of codes that carry many nats, "mss" moves nats from the
            dimension-wise KL into the total correlation: up to 10.7 nats with 64 images and 0.3 with 8,192, as the design
            notes say.
        group: processes that each hold the same number of rows of one batch, in the order of their ranks. Every row is
            then compared with the posteriors of all processes. The values are means over a process's own rows; averaged
            over the processes, values and gradients are those of the whole batch in one process.
        backend: as in :func:`betavae_fast.reparameterize_kl`.

    Returns: KLDecomposition, means over the batch, float32 (float64 for float64).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit; "mss" with a batch of one.
        RuntimeError: a backend that is not available, or a ``group`` under a transform of torch.func.

    >>> mu = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])  # one channel tells the two images apart
    >>> parts = kl_decomposition(mu, mu, torch.full((2, 2), -9.0), dataset_size=2, estimator="mss")
    >>> round(float(parts.mutual_information), 4)  # log 2
    0.6931
    """
    parts = kl_parts(
        z, mu, logvar, dataset_size=dataset_size, estimator=estimator, group=group, backend=backend
    )
    return KLDecomposition(*parts.unbind())


def kl_parts(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    dataset_size: int,
    estimator: Estimator,
    group: distributed.ProcessGroup | None,
    backend: Backend,
) -> Tensor:
    """:func:`kl_decomposition` as one tensor of shape (3,), so that a weighted sum is one launch on a GPU."""
    caller = "kl_decomposition"
    for name, x in (("z", z), ("mu", mu), ("logvar", logvar)):
        check_tensor(caller, name, x, FLOATING)
    if not (z.shape == mu.shape == logvar.shape and z.dim() >= 2):
        raise ValueError(
            f"{caller}: z, mu and logvar must have one shape (B, ...), "
            f"got {tuple(z.shape)}, {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    if not z.device == mu.device == logvar.device:
        raise ValueError(
            f"{caller}: z, mu and logvar must be on one device, got {z.device}, {mu.device} and {logvar.device}"
        )
    if not z.dtype == mu.dtype == logvar.dtype and not torch.is_autocast_enabled(z.device.type):
        raise TypeError(
            f"{caller}: z, mu and logvar must have one dtype, got {z.dtype}, {mu.dtype} and {logvar.dtype}"
        )
    if not isinstance(estimator, str) or estimator not in ESTIMATORS:
        names = ", ".join(map(repr, ESTIMATORS))
        raise ValueError(f"{caller}: estimator must be one of {names}, got {estimator!r}")
    # Convert once, so that gradients arriving by several paths are added in the wide dtype and rounded once.
    dtype = kl_dtype(torch.promote_types(torch.promote_types(z.dtype, mu.dtype), logvar.dtype))
    z, mu, logvar = (x.flatten(1).to(dtype) for x in (z, mu, logvar))
    all_mu = all_logvar = None
    first_row, batch = 0, len(z)
    if group is not None:
        if not isinstance(group, distributed.ProcessGroup):
            raise TypeError(
                f"{caller}: group must be a ProcessGroup, got {type(group).__name__} {group!r:.60}"
            )
        if transformed():
            raise RuntimeError(
                f"{caller}: group cannot be given under a transform of torch.func, which cannot pass through the "
                "exchange between processes"
            )
        all_mu, all_logvar, first_row = (
            gather_rows(mu, group),
            gather_rows(logvar, group),
            group.rank() * len(z),
        )
        batch = len(all_mu)
    if not isinstance(dataset_size, int) or isinstance(dataset_size, bool):
        raise TypeError(f"{caller}: dataset_size must be an int, got {dataset_size!r:.60}")
    if dataset_size < max(1, batch) or dataset_size >= 1 << 53:
        raise ValueError(
            f"{caller}: dataset_size must be at least the batch size, {batch}, and below 2^53, got {dataset_size}"
        )
    if estimator == "mss" and batch == 1:
        raise ValueError(f'{caller}: estimator "mss" needs a batch of at least 2, got 1')
    chosen = choose_backend(caller, z, backend)
    if chosen in ("triton", "cuda"):
        triton_serves(z.device)  # then the parts are one launch each way
    settings = (first_row, dataset_size, ESTIMATORS[estimator])
    return decomposed_kl(z, mu, logvar, all_mu, all_logvar, settings, chosen)
