"""The initial weights of a network, by the name of a published rule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import sqrt
from typing import get_args

import torch
from torch import nn

from betavae_fast.choices import Initialization


@torch.no_grad()
def initialize(network: nn.Sequential, rule: Initialization) -> None:
    """Draw the weights of all linear and convolution layers of ``network`` anew, from torch's global generator.

    All rules are uniform in ±bound:

    - "torch": 1/√fan_in, for the biases as well; what torch's layers do themselves.
    - "glorot": √(6 / (fan_in + fan_out)), no bias (Glorot & Bengio 2010, equation 16).
    - "kaiming": √(6 / fan_in), no bias, where a ReLU follows (He et al. 2015, arXiv:1502.01852, equation 10), which
      keeps the second moment of the activations from layer to layer; elsewhere as "glorot".

    ``fan_in`` is the number of inputs that one output is a sum over. For a transposed convolution of stride s it is
    channels × (kernel / s)², because the other taps fall between the inputs.

    Raises: ValueError for an unknown rule.

    >>> layer = nn.Linear(6, 3)
    >>> initialize(nn.Sequential(layer, nn.ReLU()), "kaiming")
    >>> bool(layer.weight.abs().max() <= 1), layer.bias.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    if rule not in get_args(Initialization):
        raise ValueError(f"initialization must be one of {', '.join(get_args(Initialization))}; got {rule!r}")
    for layer, next_layer in _layers(network):
        if rule == "torch":
            layer.reset_parameters()
            continue
        fan_in, fan_out = _fans(layer)
        followed_by_relu = isinstance(next_layer, nn.ReLU)
        bound = sqrt(6 / fan_in) if rule == "kaiming" and followed_by_relu else sqrt(6 / (fan_in + fan_out))
        layer.weight.uniform_(-bound, bound)
        if layer.bias is not None:
            layer.bias.zero_()


_Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def _layers(network: nn.Sequential) -> Iterator[tuple[_Layer, nn.Module | None]]:
    """Each layer that has weights, and the module after it."""
    for module, next_module in pairwise([*network, None]):
        if isinstance(module, _Layer):
            yield module, next_module


def _fans(layer: _Layer) -> tuple[float, float]:
    """The numbers of inputs that an output is a sum over, and of outputs that an input adds to.

    >>> _fans(nn.Conv2d(1, 32, 4, stride=2)), _fans(nn.ConvTranspose2d(32, 1, 4, stride=2))
    ((16.0, 128.0), (128.0, 16.0))
    """
    if isinstance(layer, nn.Linear):
        return float(layer.in_features), float(layer.out_features)
    kernel, stride = torch.tensor(layer.kernel_size).prod(), torch.tensor(layer.stride).prod()
    taps = float(kernel)
    spaced = float(kernel / stride)  # taps that meet an input, or an output, in a strided direction
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * spaced, layer.out_channels * taps
    return layer.in_channels * taps, layer.out_channels * spaced
