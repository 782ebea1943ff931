"""Draws codes and decodes them to images: from the prior, from the aggregated posterior, or between two images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.data import ImageDataset
from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.code_file import Block, described, write_npz
from betavae_fast.evaluation.encoding import Encoding, encode
from betavae_fast.evaluation.summary import choose_images
from betavae_fast.files import atomic_writer
from betavae_fast.functional import reparameterize
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pixels import to_float

_COMPONENTS = 10
_BATCH = 256
_SAMPLE = 4096  # images from which the aggregated posterior is estimated, as for traversals
_STEPS_IN_A_ROW = 16


@dataclass(frozen=True, eq=False)
class Samples:
    """Codes to decode, and all that is written beside their images.

    Attributes:
        name: name of the files.
        z: the codes, float32 (n, D).
        columns: images in a row of the grid.
        told: arrays that tell apart the images that were encoded.
        originals: these images, float32 (n, C, H, W), to be shown above those of ``z``; None: they are not shown.
    """

    name: str
    z: Tensor
    columns: int
    told: Block = field(default_factory=dict)
    originals: Tensor | None = None


def from_prior(model: BetaVAE, n: int, seed: int) -> Samples:
    """Draw ``n`` codes from the prior."""
    return Samples("prior", prior_codes(n, model.latent_dim, seed), _square(n))


def from_aggregate(
    model: BetaVAE, dataset: ImageDataset, n: int, seed: int, precision: torch.dtype
) -> Samples:
    """Draw ``n`` codes from the aggregated posterior of up to 4,096 images."""
    encoding = encode(model, dataset, choose_images(len(dataset), _SAMPLE), precision=precision)
    return Samples("aggregate", aggregate_codes(encoding, n, seed), _square(n))


def from_images(model: BetaVAE, dataset: ImageDataset, n: int, seed: int, precision: torch.dtype) -> Samples:
    """Draw ``n`` different images, whose codes are their posterior means.

    Raises: ValueError if there are fewer.
    """
    drawn = draw_indices(len(dataset), n, seed)
    z = encode(model, dataset, drawn, precision=precision).mu
    originals = to_float(dataset.gather(drawn))
    return Samples("reconstructions", z, _square(n), described(dataset)(drawn), originals)


def from_line(
    model: BetaVAE, dataset: ImageDataset, ends: Sequence[int], n: int, precision: torch.dtype
) -> Samples:
    """Go in ``n`` steps from the posterior mean of one image to that of another; ``ends`` are their indices.

    Raises: ValueError for an image that does not exist.
    """
    for index in ends:
        if not 0 <= index < len(dataset):
            raise ValueError(f"between must name images in [0, {len(dataset)}), got {index}")
    first, last = encode(model, dataset, torch.tensor(ends), precision=precision).mu
    return Samples("between", between(first, last, n), min(n, _STEPS_IN_A_ROW))


def memory_needed(model: BetaVAE, n: int, *, in_pairs: bool) -> int:
    """The bytes of memory that writing ``n`` decoded images takes; ``in_pairs``: each below its original."""
    channels, height, width = model.image_shape
    pixels = 4 * channels * height * width
    cell = pictures.grid_bytes(height, width)
    # Pairs are a copy of both.
    return n * (4 * pixels + 2 * cell if in_pairs else pixels + cell)


def write(samples: Samples, model: BetaVAE, folder: Path) -> tuple[Path, Path]:
    """Decode ``samples`` and write their grid and their arrays into ``folder``. Returns the paths of both files.

    Raises: ValueError for images that are not finite; OSError.
    """
    still, numbers = folder / f"{samples.name}.png", folder / f"{samples.name}.npz"
    images = decode(model, samples.z)
    write_npz(numbers, {"images": images.numpy(), "z": samples.z.numpy(), **samples.told})
    if samples.originals is not None:
        images = in_pairs(samples.originals, images, samples.columns)
    with atomic_writer(still) as file:
        pictures.grid(images.numpy(), samples.columns).save(file, format="PNG")
    return still, numbers


def prior_codes(n: int, latent_dim: int, seed: int) -> Tensor:
    """Draw ``n`` codes from the prior N(0, I): float32 (n, D), the codes of ``model.sample(n, seed=seed)``.

    >>> prior_codes(2, 3, seed=0).shape
    torch.Size([2, 3])
    """
    standard = torch.zeros(n, latent_dim)
    return reparameterize(standard, standard, seed=seed)


def aggregate_codes(encoding: Encoding, n: int, seed: int) -> Tensor:
    """Draw ``n`` codes from a Gaussian mixture that is fitted to the aggregated posterior.

    The aggregated posterior is the mean of the posteriors of all images: the codes that the decoder saw in training.
    Where it differs from the prior, the prior draws codes that the decoder has never seen. The mixture has 10 components
    with full covariances (Ghosh et al. 2020, arXiv:1903.12436, section 4) over the channels in use. scikit-learn fits it
    to one draw of each posterior. The other channels are drawn from the prior.

    Args:
        encoding: posteriors of at least two images. A channel is in use if its mean KL over them exceeds 0.05 nats.
    Returns: float32 (n, D).
    Raises: ValueError for fewer images, or codes that are not finite.
    """
    from sklearn.mixture import GaussianMixture  # a second to import

    codes = encoding.sampled_codes(seed)
    images, latent_dim = codes.shape
    drawn = prior_codes(n, latent_dim, seed)
    if images < 2:
        raise ValueError(f"the aggregated posterior needs at least 2 images, got {images}")
    if not np.isfinite(codes).all():
        raise ValueError("codes must be finite to fit the aggregated posterior, got NaN or infinity")
    used = torch.nonzero(encoding.kl_per_dim() > ACTIVE_NATS).flatten()
    if len(used):
        # Given the seed itself, scikit-learn would take 32 bits only.
        generator = np.random.RandomState(np.random.MT19937(seed))
        mixture = GaussianMixture(min(_COMPONENTS, images), max_iter=1000, random_state=generator)
        mixture.fit(codes[:, used.numpy()].astype(np.float64))
        found, _ = mixture.sample(n)
        # The mixture gives one component after the other.
        shuffled = np.random.default_rng(seed).permutation(found)
        drawn[:, used] = torch.from_numpy(shuffled).float()
    return drawn


def between(first: Tensor, last: Tensor, n: int) -> Tensor:
    """Codes on the straight line from ``first`` to ``last``, both of shape (D,) and included: (n, D), in equal steps.

    >>> between(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0]), 3)
    tensor([[0., 1.],
            [1., 1.],
            [2., 1.]])
    """
    return torch.lerp(first, last, torch.linspace(0, 1, n).unsqueeze(1))


def draw_indices(count: int, n: int, seed: int) -> Tensor:
    """Draw ``n`` different indices of ``count`` images, in random order: int64 (n,).

    Raises: ValueError if there are fewer images.
    """
    if n > count:
        raise ValueError(f"n must be at most the number of images, {count}, got {n}")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n]


@torch.inference_mode()
def decode(model: BetaVAE, z: Tensor) -> Tensor:
    """The expected images of codes (n, D) on the CPU: float32 (n, C, H, W), in [0, 1] for a Bernoulli likelihood.

    Raises: ValueError for images that are not finite.
    """
    device = next(model.parameters()).device
    images = torch.empty(len(z), *model.image_shape)
    for part, decoded in zip(z.split(_BATCH), images.split(_BATCH), strict=True):
        decoded.copy_(model.pixels(model.decode(part.to(device))))
    if not images.isfinite().all():
        raise ValueError("the decoded images must be finite, got NaN or infinity")
    return images


def in_pairs(originals: Tensor, reconstructed: Tensor, columns: int) -> Tensor:
    """Images for a grid of ``columns``, in which each row of originals stands above that of their reconstructions.

    Args:
        originals, reconstructed: (N, C, H, W), floating point.
    """
    rows = range(0, len(originals), columns)
    pairs = originals.new_ones(len(rows), 2, columns, *originals.shape[1:])
    for row, start in zip(pairs, rows, strict=True):
        for shown, images in zip(row, (originals, reconstructed), strict=True):
            some = images[start : start + columns]
            shown[: len(some)] = some
    return pairs.flatten(0, 2)


def _square(n: int) -> int:
    """The columns of a grid of ``n`` images that has about as many rows."""
    return ceil(sqrt(n))
