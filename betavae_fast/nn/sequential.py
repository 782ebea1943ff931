"""``nn.Sequential`` that runs a hidden layer and its ReLU together on a GPU, where each kernel launched costs time, and
convolutions in bfloat16 and their ReLUs on a CPU.

After a convolution torch launches one kernel for the bias and one for the ReLU; in the backward pass one for the ReLU,
and one that sums up the bias's gradient. Here each of these two is one, which also goes through the memory once. The
matrix product of a linear layer, cuBLASLt's, takes bias and ReLU along. cuDNN has a convolution with bias and ReLU, which
would save one more launch, but heeds no request for deterministic algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from betavae_fast.nn.convolutions import ConvTranspose2d, computes_in_bfloat16, convolve, convolves
from betavae_fast.ops.backends import triton_serves
from betavae_fast.ops.bias_relu import BiasReluFunction, LinearReluFunction
from betavae_fast.ops.casting import CastAll
from betavae_fast.ops.gradients import transformed


def fuses(x: Tensor) -> bool:
    """True if layers run together with their ReLUs for the input ``x``: Triton serves its GPU, and nothing looks into
    the layers, as torch.compile, torch.export, torch.func and forward-mode differentiation do."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.is_cuda
        and not torch._C._is_tracing()
        and not transformed()
        and triton_serves(x.device)
    )


class Sequential(nn.Sequential):
    """``torch.nn.Sequential``: the same modules, parameters and results, but faster.

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
                return _run(list(self), input)
            if computes_in_bfloat16(input):
                return _run_on_cpu(list(self), input)
        for layer in self:
            input = layer(input)
        return input


def _run(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    pairs = [i for i, two in enumerate(pairwise(layers)) if _is_pair(*two, x.device)]
    weights = dict(zip(pairs, _weights([layers[i] for i in pairs], x.device.type), strict=True))
    taken = False  # by the layer before
    for i, layer in enumerate(layers):
        if taken:
            taken = False
        elif i in weights and x.dim() == _TOGETHER[type(layer)][0]:
            taken = True
            x = _TOGETHER[type(layer)][1](layer, weights[i], x)
        else:
            x = layer(x)
    return x


def _run_on_cpu(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    taken = False  # by the layer before
    for layer, following in pairwise([*layers, nn.Identity()]):
        if taken:
            taken = False
        elif (
            type(layer) in (nn.Conv2d, nn.ConvTranspose2d, ConvTranspose2d)
            and type(following) is nn.ReLU
            and is_bare(layer)
            and is_bare(following)
            and convolves(layer, x)
        ):
            taken = True
            x = convolve(layer, x, relu=True)
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
        and type(layer) in _TOGETHER
        and is_bare(layer)
        and is_bare(following)
        and layer.bias is not None
        and all(
            type(parameter) in (nn.Parameter, Tensor)
            and parameter.device == device
            and parameter.dtype == layer.weight.dtype
            for parameter in (layer.weight, layer.bias)
        )
    )


def is_bare(module: nn.Module) -> bool:
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


# Layer -> the dimensions of its input, and what runs it, with a weight, together with its ReLU.
_TOGETHER: dict[type[nn.Module], tuple[int, Callable[[Any, Tensor, Tensor], Tensor]]] = {
    nn.Linear: (2, _linear),
    nn.Conv2d: (4, _convolution),
    nn.ConvTranspose2d: (4, _transposed),
    ConvTranspose2d: (4, _transposed),
}
