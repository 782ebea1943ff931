"""The encoder or decoder of a trained model on a CPU, with weights packed once and each ReLU within the layer before it.

Each part of the data runs through all layers on one thread, so its activations stay in that core's cache and no thread
waits for another after every layer. The operators are oneDNN's that torch.compile calls in a frozen graph, and the
convolutions of ``nn.convolutions`` in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from betavae_fast.nn.convolutions import ConvTranspose2d, convolve, has_kernel
from betavae_fast.nn.sequential import Sequential, is_bare
from betavae_fast.training.precision import onednn_has_bf16

T = TypeVar("T")
R = TypeVar("R")


def pack(network: nn.Module, inputs: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """A function that computes ``network`` in ``dtype`` as it is now, or None where oneDNN cannot.

    It takes images (B, C, H, W) or codes (B, D) in ``dtype``, and is fastest on one thread and for the shape of
    ``inputs``. The network itself stays as it is.

    Args:
        network: a sequence of layers, whose hooks would not run: with any, the answer is None.
    """
    if type(network) not in (nn.Sequential, Sequential) or not _serves(dtype):
        return None
    layers = list(network.children())
    if not (is_bare(network) and all(map(_is_known, layers))):
        return None
    steps: list[Callable[[Tensor], Tensor]] = []
    x = inputs.to(dtype)
    with torch.inference_mode(), _one_thread():
        try:
            for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
                is_relu = type(layer) is nn.ReLU
                if is_relu and type(before) in _PACK:
                    continue  # the layer before takes it along
                if type(layer) in _PACK:
                    step = _PACK[type(layer)](layer, x, "relu" if type(after) is nn.ReLU else "none")
                else:
                    step = torch.relu if is_relu else layer  # not in place, as x may be the caller's
                steps.append(step)
                x = step(x)
        except (AttributeError, RuntimeError, TypeError):  # a torch without such operators
            return None

    def packed(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return packed


@contextmanager
def side_by_side() -> Iterator[Callable[[Callable[[T], R], Iterable[T]], Iterable[R]]]:
    """A ``map`` that works on several items at a time, each on a single one of torch's threads.

    Within the context torch computes on one thread, and afterwards on as many as before.
    """
    with _one_thread() as threads:
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield map if threads == 1 else pool.map
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[int]:
    """Let torch compute on one thread; the context is the number before, which is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _serves(dtype: torch.dtype) -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and onednn_has_bf16())


def _is_known(layer: nn.Module) -> bool:
    plain = type(layer) is not nn.Conv2d or (
        layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )
    known = type(layer) in (*_PACK, nn.ReLU, nn.Tanh, nn.Flatten, nn.Unflatten)
    own = layer.parameters(recurse=False)
    return (
        known
        and plain
        and is_bare(layer)
        and all(
            type(parameter) is nn.Parameter
            and parameter.dtype is torch.float32
            and parameter.device.type == "cpu"
            and bool(parameter.isfinite().all())  # oneDNN's ReLU would turn NaN into 0
            for parameter in own
        )
    )


def _convolution(layer: Any, x: Tensor, end: str) -> Callable[[Tensor], Tensor]:
    if x.dtype is torch.bfloat16 and has_kernel(layer, x):
        return lambda x: convolve(layer, x, relu=end == "relu")
    settings = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    weight = torch.ops.mkldnn._reorder_convolution_weight(
        layer.weight.detach().to(x.dtype), *settings, list(x.shape)
    )
    return _pointwise(torch.ops.mkldnn._convolution_pointwise.default, layer, weight, settings, end)


def _transposed(layer: Any, x: Tensor, end: str) -> Callable[[Tensor], Tensor]:
    if x.dtype is torch.bfloat16 and has_kernel(layer, x):
        return lambda x: convolve(layer, x, relu=end == "relu")
    if x.dtype is torch.float32 and end == "none" and _doubles_to_one_channel(layer):
        return _doubling_to_one_channel(layer)
    settings = (
        list(layer.padding),
        list(layer.output_padding),
        list(layer.stride),
        list(layer.dilation),
        layer.groups,
    )
    weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
        layer.weight.detach().to(x.dtype), *settings, list(x.shape)
    )
    return _pointwise(torch.ops.mkldnn._convolution_transpose_pointwise.default, layer, weight, settings, end)


def _pointwise(
    convolution: Any, layer: Any, weight: Tensor, settings: tuple[Any, ...], end: str
) -> Callable[[Tensor], Tensor]:
    """A step that calls ``convolution``, oneDNN's operator, with a packed weight and with ``end`` after it."""
    bias = None if layer.bias is None else layer.bias.detach().to(weight.dtype)

    def step(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        result: Tensor = convolution(x, weight, bias, *settings, end, [], "")
        return result

    return step


def _doubles_to_one_channel(layer: Any) -> bool:
    """True for a transposed convolution to one channel, with bias, kernel 4, stride 2 and padding 1."""
    return (
        (layer.out_channels, layer.kernel_size) == (1, (4, 4))
        and layer.bias is not None
        and (layer.stride, layer.padding, layer.output_padding) == ((2, 2), (1, 1), (0, 0))
        and layer.dilation == (1, 1)
    )


def _doubling_to_one_channel(layer: Any) -> Callable[[Tensor], Tensor]:
    """The transposed convolution as a matrix product to its 16 taps, which are then added up.

    oneDNN computes 16 channels for the one. With input x and kernel rows k, output row 2m is k1 x[m] + k3 x[m − 1], and
    row 2m + 1 is k2 x[m] + k0 x[m + 1]; columns alike.
    """
    kernel = layer.weight.detach().flatten(1).t().contiguous()  # (16, channels)
    bias = layer.bias.detach()

    def step(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        taps = (kernel @ pixels.t()).view(4, 4, batch, height, width)
        taps[1, :, :, 1:] += taps[3, :, :, :-1]
        taps[2, :, :, :-1] += taps[0, :, :, 1:]
        rows = taps[1:3]
        rows[:, 1, ..., 1:] += rows[:, 3, ..., :-1]
        rows[:, 2, ..., :-1] += rows[:, 0, ..., 1:]
        image = (rows[:, 1:3] + bias).permute(2, 3, 0, 4, 1)  # (image, row, parity, column, parity)
        return image.reshape(batch, 1, 2 * height, 2 * width)

    return step


def _linear(layer: Any, x: Tensor, end: str) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(x.dtype), len(x))
    bias = None if layer.bias is None else layer.bias.detach().to(x.dtype)
    product = torch.ops.mkldnn._linear_pointwise.default

    def step(x: Tensor) -> Tensor:
        result: Tensor = product(x, weight, bias, end, [], "")
        return result

    return step


# The function that packs a layer's weight for inputs like ``x``, by the layer's type.
_PACK: dict[type[nn.Module], Callable[[Any, Tensor, str], Callable[[Tensor], Tensor]]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    ConvTranspose2d: _transposed,
    nn.Linear: _linear,
}
