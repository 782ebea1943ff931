"""``nn.Sequential`` that runs a hidden layer and its ReLU together.

On a CPU oneDNN's convolutions take the ReLU along, which saves a pass through memory. On a GPU each kernel launched costs
time: after a convolution torch launches one for the bias and one for the ReLU; in the backward pass one for the ReLU, and
one that sums up the bias's gradient. Here each of these two is one, which also goes through the memory once. The
matrix product of a linear layer, cuBLASLt's, takes bias and ReLU along. cuDNN has a convolution with bias and ReLU, which
would save one more launch, but heeds no request for deterministic algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from betavae_fast.nn.convolutions import DTYPES, ConvolutionReluFunction, ConvTranspose2d, computing_dtype
from betavae_fast.ops.backends import triton_serves
from betavae_fast.ops.bias_relu import BiasReluFunction, LinearReluFunction
from betavae_fast.ops.casting import CastAll


def fuses(x: Tensor) -> bool:
    """True if layers run together with their ReLUs on a GPU for the input ``x``: Triton serves it, and nothing looks into
    the layers."""
    return _is_unobserved(x) and x.is_cuda and triton_serves(x.device)


def fuses_convolutions(x: Tensor) -> bool:
    """True if convolutions run together with their ReLUs on a CPU for the input ``x``: oneDNN is there, and nothing looks
    into the layers."""
    return _is_unobserved(x) and x.is_cpu and x.dtype in DTYPES and _onednn_serves()


def _is_unobserved(x: Tensor) -> bool:
    """True if nothing looks into the layers, as torch.compile, torch.export, torch.func and forward-mode differentiation
    do."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _onednn_serves() -> bool:
    """True if torch has oneDNN, its convolutions that end in a ReLU, and leave to use them."""
    return (
        torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise")
    )


class Sequential(nn.Sequential):
    """``torch.nn.Sequential``: the same modules, parameters and results, with fewer kernels.

    A layer runs by itself as soon as it or its ReLU has a hook.

    >>> layers = Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> x = torch.randn(4, 3)
    >>> torch.equal(layers(x), layers[1](layers[0](x)))
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        # Two conditions, as TorchScript leaves out only what stands under the first.
        if not is_scripting():
            if fuses(input):
                return _run(list(self), input, _TOGETHER)
            if fuses_convolutions(input):
                return _run(list(self), input, _TOGETHER_ON_CPU)
        for layer in self:
            input = layer(input)
        return input


def _run(layers: Sequence[nn.Module], x: Tensor, together: _Together) -> Tensor:
    pairs = [
        i
        for i, (layer, following) in enumerate(pairwise(layers))
        if type(layer) in together and _is_pair(layer, following, x.device)
    ]
    weights = dict(zip(pairs, _weights([layers[i] for i in pairs], x.device.type), strict=True))
    taken = False  # by the layer before
    for i, layer in enumerate(layers):
        if taken:
            taken = False
        elif i in weights and x.dim() == together[type(layer)][0]:
            taken = True
            x = together[type(layer)][1](layer, weights[i], x)
        else:
            x = layer(x)
    return x


def _weights(layers: Sequence[Any], device: str) -> Sequence[Tensor]:
    """Brings the layers' weights into the dtype that the layers compute in: all by one launch, as their gradients, where
    autocast has one for each."""
    weights = [layer.weight for layer in layers]
    dtype = torch.get_autocast_dtype(device)
    as_they_are = {dtype, torch.float64}  # autocast leaves float64 alone
    if not torch.is_autocast_enabled(device) or all(weight.dtype in as_they_are for weight in weights):
        return weights
    cast: tuple[Tensor, ...] = CastAll.apply(dtype, *weights)
    return cast


def _is_pair(layer: Any, following: nn.Module, device: torch.device) -> bool:
    """True if ``following`` is a ReLU that ``layer``, before it, can take along."""
    return (
        type(following) is nn.ReLU
        and _is_bare(layer)
        and _is_bare(following)
        and layer.bias is not None
        and all(
            type(parameter) in (nn.Parameter, Tensor)
            and parameter.device == device
            and parameter.dtype == layer.weight.dtype
            for parameter in (layer.weight, layer.bias)
        )
    )


def _is_bare(module: nn.Module) -> bool:
    """True if a call of ``module`` is no more than its class's ``forward``: no hook, no ``forward`` in its place."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(module) and not _has_any_global_hook()


def _linear(layer: nn.Linear, weight: Tensor, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        # Autocast does not know the product that ends in a ReLU.
        x = x.to(torch.get_autocast_dtype(x.device.type))
    result: Tensor = LinearReluFunction.apply(x, weight, layer.bias)
    return result


def _convolution(layer: nn.Conv2d, weight: Tensor, x: Tensor) -> Tensor:
    result: Tensor = BiasReluFunction.apply(layer._conv_forward(x, weight, None), layer.bias)
    return result


def _transposed(layer: nn.ConvTranspose2d, weight: Tensor, x: Tensor) -> Tensor:
    settings: Any = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    result: Tensor = BiasReluFunction.apply(F.conv_transpose2d(x, weight, None, *settings), layer.bias)
    return result


def _by_onednn(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, x: Tensor) -> Tensor:
    dtype = computing_dtype(x, weight)
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if dtype is None or not plain or not x.numel() or (dtype is torch.bfloat16 and not _has_bf16()):
        return F.relu(layer(x))
    transposed = isinstance(layer, nn.ConvTranspose2d)
    settings = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, layer.groups)
    result: Tensor = ConvolutionReluFunction.apply(x.to(dtype), weight.to(dtype), layer.bias, settings)
    return result


@cache
def _has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_Together = dict[type[nn.Module], tuple[int, Callable[[Any, Tensor, Tensor], Tensor]]]

# Layer -> the dimensions of its input, and what runs it, with a weight, together with its ReLU.
_TOGETHER: _Together = {
    nn.Linear: (2, _linear),
    nn.Conv2d: (4, _convolution),
    nn.ConvTranspose2d: (4, _transposed),
    ConvTranspose2d: (4, _transposed),
}
_TOGETHER_ON_CPU: _Together = dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d, ConvTranspose2d), (4, _by_onednn))
