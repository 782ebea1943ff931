"""The importance-weighted bound of the likelihood, which is tighter than the ELBO."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import log
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast.evaluation.encoding import Encoding, as_batch, encode_batch
from betavae_fast.evaluation.packed_network import pack, side_by_side
from betavae_fast.functional import bernoulli_nll, gaussian_nll, laplace_nll, reparameterize
from betavae_fast.nn import BetaVAE
from betavae_fast.ops.reductions import widest_dtype
from betavae_fast.settings import at_least, check_scale
from betavae_fast.training.precision import autocast

# Codes decoded at a time. Fastest as measured on a CPU, where a part's activations stay in a core's cache.
_BATCH = {"cpu": 64, "cuda": 8192}
_PARTS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class ImportanceBound:
    """The importance-weighted bound of N images.

    Attributes:
        samples: codes drawn for each image, k.
        per_image: the bound of each, nats, float64 (N,) on the CPU.
    """

    samples: int
    per_image: Tensor

    @property
    def mean(self) -> float:
        """The mean over the images, nats per image."""
        return float(self.per_image.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of ``mean`` over the images; NaN for a single one."""
        return (
            float(self.per_image.std() / len(self.per_image) ** 0.5)
            if len(self.per_image) > 1
            else float("nan")
        )


@torch.inference_mode()
def importance_weighted_bound(
    model: BetaVAE,
    images: Tensor | NDArray[Any],
    k: int,
    *,
    scale: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
    on_codes: Callable[[int], object] = lambda count: None,
) -> ImportanceBound:
    r"""A lower bound of log p(x): log (1/k) Σ_j p(x | z_j) p(z_j) / q(z_j | x) with k codes z_j ~ q(z | x), in nats
    (Burda et al. 2016, "Importance weighted autoencoders", arXiv:1509.00519, equation 8).

    For k = 1 its expectation is the ELBO. It rises with k, and tends to log p(x). An image is encoded once, its k codes
    are decoded part by part, and the weights are summed in float64, so memory depends neither on k nor on the number of
    images. The draws are a function of the seed, the image's place and k; parts of another size change the result by
    rounding alone.

    Args:
        model: the model, in evaluation mode, on any device. Its likelihood must be that of its training.
        images: N images (N, C, H, W), or (N, H, W) for a model of one channel; bool, uint8 from 0 to 255 or floating
            point, from 0 to 1 for a Bernoulli likelihood. Those of a binary set should be bool, or uint8 0 and
            1: the likelihood of a grey pixel is a cross-entropy, and the bound is then none of a density.
        k: codes drawn for each image.
        scale: width of a Gaussian or Laplace likelihood; None: the model's.
        seed: seed of the codes.
        batch_size: codes decoded at a time; by default a number that suits the device.
        precision: dtype of the networks' arithmetic, float32 or bfloat16.
        on_codes: called after each part with the number of its codes.
    Returns: an `ImportanceBound`, with the bound of each image, their mean and its standard error over the images.
    Raises: ValueError for images of another shape than the model's, no images, pixels that the likelihood does not have
        (NaN included), k or batch size below 1, a scale for a Bernoulli likelihood, or a bound that is not finite;
        TypeError for pixels of another dtype.

    >>> model = BetaVAE((1, 8, 8), latent_dim=2).eval()
    >>> for parameter in model.parameters(): _ = torch.nn.init.zeros_(parameter)  # q(z | x) = p(z), and p(x | z) is even
    >>> importance_weighted_bound(model, torch.ones(3, 8, 8, dtype=torch.bool), k=50).mean  # −64 ln 2
    -44.3614...
    """
    at_least(1)("k", k)
    pixels = as_batch(images, model)
    if len(pixels) == 0:
        raise ValueError("images must be at least one, got none")
    scale = model.scale if scale is None else scale
    check_scale(model.likelihood, scale)
    if pixels.is_floating_point():
        low, high = (0.0, 1.0) if model.likelihood == "bernoulli" else (-float("inf"), float("inf"))
        if not bool((pixels.isfinite() & (pixels >= low) & (pixels <= high)).all()):
            raise ValueError(
                f"floating-point pixels must be finite{' and lie in [0, 1]' if low == 0 else ''}, "
                f"got {float(pixels.min()):g} to {float(pixels.max()):g}"
            )
    device = next(model.parameters()).device
    size = _BATCH.get(device.type, 1024) if batch_size is None else batch_size
    at_least(1)("batch_size", size)
    codes, rows = min(k, size), max(1, size // k)  # in a part: codes of an image, and images
    encoding = encode_batch(model, pixels, precision=precision)
    packed = _packed(model, rows * codes, precision)
    log_weights = partial(
        _log_weights, model, packed, encoding, pixels, precision=precision, scale=scale, seed=seed, k=k
    )
    parts = (
        (slice(i, i + rows), slice(j, min(j + codes, k)))
        for i in range(0, len(pixels), rows)
        for j in range(0, k, codes)
    )
    total = torch.full((len(pixels),), -float("inf"), dtype=torch.float64)
    with nullcontext(map) if packed is None else side_by_side() as run:
        while some := list(islice(parts, _PARTS_AT_ONCE)):
            for (which, _), found in zip(some, run(log_weights, some), strict=True):
                total[which] = torch.logaddexp(total[which], found.logsumexp(1))
                on_codes(found.numel())
    bounds = total - log(k)
    if not bool(bounds.isfinite().all()):
        wrong = int(bounds.isfinite().int().argmin())
        raise ValueError(f"the bound of image {wrong} is {float(bounds[wrong])}")
    return ImportanceBound(k, bounds)


@torch.inference_mode()  # for a thread of its own
def _log_weights(
    model: BetaVAE,
    packed: Callable[[Tensor], Tensor] | None,
    encoding: Encoding,
    images: Tensor,
    part: tuple[slice, slice],
    *,
    precision: torch.dtype,
    scale: float,
    seed: int,
    k: int,
) -> Tensor:
    """log p(x | z) + log p(z) − log q(z | x) for a part of the images and of the k codes of each: float64 on the CPU."""
    which, codes = part
    device = next(model.parameters()).device
    count = codes.stop - codes.start
    mu, logvar, targets = (
        x[which, None].to(device).expand(-1, count, *x.shape[1:]).flatten(0, 1)
        for x in (encoding.mu, encoding.logvar, images)
    )
    # A part holds all codes of its images, or some of one image, so its rows follow each other.
    first_row = which.start * k + codes.start
    z = reparameterize(mu, logvar, seed=seed, first_row=first_row, backend=model.latent.backend)
    if packed is not None:
        decoded = packed(z.to(precision))
    else:
        with autocast(device, precision):
            decoded = model.decode(z)
    likelihood: dict[str, Callable[..., Tensor]] = {
        "bernoulli": bernoulli_nll,
        "gaussian": partial(gaussian_nll, scale=scale),
        "laplace": partial(laplace_nll, scale=scale),
    }
    nll = likelihood[model.likelihood](decoded, targets, reduction="sample", backend=model.latent.backend)
    # The densities are those of the code that was decoded, which float32 has rounded.
    z, mu, logvar, nll = (x.to(widest_dtype(device)) for x in (z, mu, logvar, nll))
    standardised = (z - mu) * torch.exp(-0.5 * logvar)
    zero = torch.zeros_like(z)
    density = partial(gaussian_nll, target=zero, reduction="sample", backend=model.latent.backend)
    log_ratio = density(standardised) + 0.5 * logvar.sum(1) - density(z)
    return (log_ratio - nll).cpu().double().view(-1, count)


def _packed(model: BetaVAE, rows: int, precision: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """The packed decoder, from codes (B, D) to the decoder's output; None if ``model.decode`` must run itself."""
    if (
        next(model.parameters()).device.type != "cpu"
        or type(model).decode is not BetaVAE.decode
        or "decode" in vars(model)
    ):
        return None
    return pack(model.decoder, torch.zeros(rows, model.latent_dim), precision)
