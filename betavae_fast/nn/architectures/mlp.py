"""Higgins et al. 2017, "β-VAE: learning basic visual concepts with a constrained variational framework",
table 1: the network of the dSprites experiments."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import nn

from betavae_fast.nn.sequential import Sequential

HIDDEN = 1200


def mlp(image_shape: tuple[int, int, int], latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder: fully connected 1200, 1200 (ReLU), 2·D. Decoder: fully connected 1200, 1200, 1200 (tanh),
    pixels. It is published for 64×64 with one channel, but takes images of any size."""
    pixels = prod(image_shape)

    encoder: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for layer, in_features in enumerate((pixels, HIDDEN), start=1):
        encoder[f"fc{layer}"] = nn.Linear(in_features, HIDDEN)
        encoder[f"fc{layer}_relu"] = nn.ReLU(inplace=True)
    encoder["moments"] = nn.Linear(HIDDEN, 2 * latent_dim)

    decoder: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, in_features in enumerate((latent_dim, HIDDEN, HIDDEN), start=1):
        decoder[f"fc{layer}"] = nn.Linear(in_features, HIDDEN)
        decoder[f"fc{layer}_tanh"] = nn.Tanh()
    decoder["fc4"] = nn.Linear(HIDDEN, pixels)
    decoder["unflatten"] = nn.Unflatten(1, image_shape)
    return Sequential(encoder), Sequential(decoder)
