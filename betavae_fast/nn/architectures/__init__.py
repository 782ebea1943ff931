"""The published encoder/decoder pairs, one file each.

An encoder maps pixels (B, C, H, W) in [0, 1] to moments (B, 2·D): the posterior mean in the first D columns,
its log-variance in the last D. A decoder maps z (B, D) to (B, C, H, W): logits for a Bernoulli likelihood,
the mean for a Gaussian or Laplace one. The layers are named in the order in which the papers list them, so
that published weights can be copied layer by layer.

Initialisation is PyTorch's default for every layer (uniform in ±1/√fan_in): Burgess et al. and Higgins et
al. give none, and the code of Locatello et al. uses its framework's default, as this code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from torch import nn

from betavae_fast.choices import Architecture
from betavae_fast.nn.architectures.burgess import burgess
from betavae_fast.nn.architectures.locatello import locatello
from betavae_fast.nn.architectures.mlp import mlp

ImageShape = tuple[int, int, int]
_BUILDERS: dict[Architecture, Callable[[ImageShape, int], tuple[nn.Sequential, nn.Sequential]]] = {
    "burgess": burgess,
    "locatello": locatello,
    "mlp": mlp,
}


def build(
    architecture: Architecture, image_shape: ImageShape, latent_dim: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The (encoder, decoder) pair of that architecture for images (C, H, W) and ``latent_dim`` latent dims.

    Raises: ValueError for an unknown name, a shape that is not three positive sizes, a latent_dim below 1,
        or an image size the architecture cannot take.

    >>> encoder, decoder = build("burgess", (1, 64, 64), 10)
    >>> encoder.moments
    Linear(in_features=256, out_features=20, bias=True)
    """
    if architecture not in _BUILDERS:
        raise ValueError(
            f"architecture must be one of {', '.join(get_args(Architecture))}; got {architecture!r}"
        )
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (channels, height, width), all positive; got {tuple(image_shape)}"
        )
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
    return _BUILDERS[architecture](image_shape, latent_dim)
