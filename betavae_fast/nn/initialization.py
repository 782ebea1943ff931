"""The initial weights of a network, by the name of a published rule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod, sqrt
from typing import get_args

import torch
from torch import nn

from betavae_fast.choices import Initialization


@torch.no_grad()
def initialize(network: nn.Sequential, rule: Initialization) -> None:
    """Draw the weights of all linear and convolution layers of ``network`` anew, from torch's global generator.

    The layers of a Sequential within ``network`` are layers of ``network``. All rules are uniform in ±bound:

    - "torch": what torch's layers draw themselves, ±1/√fan_in for weights and biases.
    - "glorot": √(6 / (fan_in + fan_out)), biases of 0 (Glorot & Bengio 2010, equation 16). This is TensorFlow's default
      and ``torch.nn.init.xavier_uniform_``. Both count channels × kernel as fans, whatever the stride.
    - "kaiming": √(6 / fan_in), biases of 0, where a ReLU follows (He et al. 2015, arXiv:1502.01852, equation 10). It
      keeps the second moment of the activations from layer to layer. Elsewhere the bound is √(6 / (fan_in + fan_out)).

    For "kaiming", ``fan_in`` is the number of inputs that one output is a sum over, and ``fan_out`` the number of outputs
    that one input adds to. With a stride of s, an output of a transposed convolution sums over channels × (kernel / s)²
    inputs, because the other taps fall between the inputs. An input of a convolution adds to as many outputs.

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
        if rule == "glorot":
            nn.init.xavier_uniform_(layer.weight)
        else:
            fan_in, fan_out = _fans(layer)
            bound = sqrt(6 / (fan_in if isinstance(next_layer, nn.ReLU) else fan_in + fan_out))
            layer.weight.uniform_(-bound, bound)
        if layer.bias is not None:
            layer.bias.zero_()


_Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | _Transposed


def _layers(network: nn.Sequential) -> Iterator[tuple[_Layer, nn.Module | None]]:
    """Each layer that has weights, and the module after it."""
    for module, next_module in pairwise([*_modules(network), None]):
        if isinstance(module, _Layer):
            yield module, next_module


def _modules(network: nn.Sequential) -> Iterator[nn.Module]:
    """The modules of ``network`` in order, those of a Sequential in its place."""
    for module in network:
        if isinstance(module, nn.Sequential):
            yield from _modules(module)
        else:
            yield module


def _fans(layer: _Layer) -> tuple[float, float]:
    """The numbers of inputs that an output is a sum over, and of outputs that an input adds to.

    >>> _fans(nn.Conv2d(1, 32, 4, stride=2)), _fans(nn.ConvTranspose2d(32, 1, 4, stride=2))
    ((16.0, 128.0), (128.0, 16.0))
    """
    if isinstance(layer, nn.Linear):
        return float(layer.in_features), float(layer.out_features)
    taps = prod(layer.kernel_size)
    spaced = taps / prod(layer.stride)  # taps that meet an input, or an output, between strides
    inputs, outputs = layer.in_channels / layer.groups, layer.out_channels / layer.groups
    if isinstance(layer, _Transposed):
        return inputs * spaced, outputs * taps
    return inputs * taps, outputs * spaced
