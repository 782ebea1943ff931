"""Packs a decoder into a report, whose page then decodes: a slider for each channel, without a server or a network.

The page has the decoder's weights in half precision, and ``templates/explorer.js`` computes its layers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from betavae_fast.evaluation import TRAVERSAL_EXTENT
from betavae_fast.evaluation.summary import Channel
from betavae_fast.nn import BetaVAE

MOST_WEIGHTS = 1_000_000
"""The most weights that a page gets: 2.7 MB of text."""


@dataclass(frozen=True)
class Slider:
    """A channel that the page moves, its name, and how far it goes in both directions."""

    channel: int
    name: str
    extent: float


@torch.no_grad()
def explorer(
    model: BetaVAE, images: Tensor, channels: Sequence[Channel], names: Mapping[int, str]
) -> dict[str, Any] | None:
    """Pack the decoder of ``model``, and the codes that a visitor may start from, as what JSON can hold.

    Args:
        model: the model, in evaluation mode.
        images: (N, C, H, W), as the model takes them; their mean codes are the starts.
        channels: the channels that get a slider, in this order.
        names: the names of channels; the others are named by their numbers.
    Returns: None without channels, or if the page cannot decode: the decoder has other layers, or more than
        ``MOST_WEIGHTS`` weights.
    """
    packed = pack(model.decoder)
    if packed is None or not channels or model.image_shape[0] not in (1, 3):
        return None
    layers, weights = packed
    codes = model.encode(images)[0].float().cpu()
    farthest = codes.abs().amax(0).tolist()
    return {
        "layers": layers,
        "weights": base64.b64encode(weights.astype("<f2").tobytes()).decode(),
        "shape": list(model.image_shape),
        "sigmoid": model.likelihood == "bernoulli",
        "starts": [[round(value, 4) for value in code] for code in codes.tolist()],
        "sliders": [
            vars(
                Slider(
                    channel.index,
                    names.get(channel.index, f"Channel {channel.index}"),
                    float(max(TRAVERSAL_EXTENT, np.ceil(farthest[channel.index]))),
                )
            )
            for channel in channels
        ],
    }


def pack(decoder: nn.Module) -> tuple[list[dict[str, Any]], NDArray[np.float32]] | None:
    """The layers of ``decoder`` in words, and their weights in one array, in the order in which the page reads them.

    A layer's weights are rows of ``outputs`` numbers, one for each tap of the kernel and each input: an input of 0, of
    which ReLUs make many, then skips whole rows. Its biases follow.

    Returns: None for layers that the page does not compute, or too many weights.

    >>> pack(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))[0]
    [{'kind': 'linear', 'inputs': 2, 'outputs': 3}, {'kind': 'relu'}]
    >>> pack(nn.Sequential(nn.GELU())) is None
    True
    """
    if not isinstance(decoder, nn.Sequential):
        return None
    layers: list[dict[str, Any]] = []
    weights: list[Tensor] = []
    for layer in decoder:
        match layer:
            case nn.Linear():
                layers.append({"kind": "linear", "inputs": layer.in_features, "outputs": layer.out_features})
                weights += [layer.weight.T, _bias(layer.bias, layer.out_features)]
            case nn.ConvTranspose2d() if _is_plain(layer):
                layers.append(
                    {
                        "kind": "transposed",
                        "inputs": layer.in_channels,
                        "outputs": layer.out_channels,
                        "kernel": layer.kernel_size[0],
                        "stride": layer.stride[0],
                        "padding": layer.padding[0],
                    }
                )
                weights += [layer.weight.permute(2, 3, 0, 1), _bias(layer.bias, layer.out_channels)]
            case nn.ReLU():
                layers.append({"kind": "relu"})
            case nn.Tanh():
                layers.append({"kind": "tanh"})
            case nn.Unflatten(dim=1, unflattened_size=(channels, height, width)):
                layers.append({"kind": "unflatten", "channels": channels, "height": height, "width": width})
            case _:
                return None
    numbers = torch.cat([part.detach().float().cpu().flatten() for part in weights])
    return None if len(numbers) > MOST_WEIGHTS else (layers, numbers.numpy())


def _is_plain(layer: nn.ConvTranspose2d) -> bool:
    """Tell whether a square kernel is applied to all channels, without dilation or extra rows."""
    sizes = (layer.kernel_size, layer.stride, layer.padding)
    return (
        all(len(set(size)) == 1 for size in sizes)
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and set(layer.output_padding) == {0}
    )


def _bias(bias: Tensor | None, outputs: int) -> Tensor:
    return torch.zeros(outputs) if bias is None else bias
