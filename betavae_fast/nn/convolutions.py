"""A transposed convolution that is faster on a CPU.

oneDNN takes up to three times as long as necessary for two parts of a transposed convolution: the gradient of the
weight, if the gradient of the bias is computed in the same call, and the forward pass to a single channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betavae_fast.ops.convolution import ConvolutionFunction, serves
from betavae_fast.ops.gradients import transformed


def computes_in_bfloat16(x: Tensor) -> bool:
    """True on a CPU under autocast to bfloat16, unless something looks into the layers, as torch.compile, torch.export,
    torch.func and forward-mode differentiation do."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch._C._is_tracing()
        and not transformed()
    )


def convolves(layer: Any, x: Tensor) -> bool:
    """True if :func:`convolve` runs the convolution ``layer`` on ``x`` in the current context."""
    return computes_in_bfloat16(x) and has_kernel(layer, x)


def has_kernel(layer: Any, x: Tensor) -> bool:
    """True if this library can run the convolution ``layer`` on ``x`` in bfloat16: the CPU has instructions for it,
    kernel 4, stride 2 and padding 1 halve or double an image, and there is a bias.

    A parametrization computes its tensor at each access, and may count accesses. So only the layer's own parameters are
    looked at.
    """
    weight, bias = (layer._parameters.get(name) for name in ("weight", "bias"))
    return (
        x.dim() == 4
        and x.numel() > 0
        and x.dtype in _DTYPES
        and x.shape[1] == layer.in_channels
        and all(
            type(parameter) in (nn.Parameter, Tensor)
            and parameter.dtype == torch.float32
            and parameter.device == x.device
            for parameter in (weight, bias)
        )
        and (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
        and (layer.dilation, layer.groups, layer.output_padding) == ((1, 1), 1, (0, 0))
        and layer.padding_mode == "zeros"
        and (layer.transposed or all(size % 2 == 0 for size in x.shape[2:]))
        and serves(weight)
    )


def convolve(layer: Any, x: Tensor, relu: bool) -> Tensor:
    """Run ``layer``, which :func:`has_kernel` for ``x``, in bfloat16, and its ReLU. The result has the memory format of
    torch's own convolution, because the caller may view it in another shape."""
    y: Tensor = ConvolutionFunction.apply(
        x.to(torch.bfloat16), layer.weight, layer.bias, layer.transposed, relu
    )
    return y if _is_channels_last(x) or _is_channels_last(layer.weight) else y.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    """Tell the formats apart for a single channel, too, where ``is_contiguous`` is true of both."""
    return x.shape[1] * x.stride(1) <= x.stride(3)


_DTYPES = {torch.float32, torch.bfloat16}


class ConvTranspose2d(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` with the same arguments, parameters and result, but faster on a CPU in float32, in
    bfloat16 and under autocast.

    >>> layer = ConvTranspose2d(32, 1, kernel_size=4, stride=2, padding=1)
    >>> x = torch.randn(2, 32, 8, 8)
    >>> torch.allclose(layer(x), nn.ConvTranspose2d.forward(layer, x), atol=1e-5)
    True
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and convolves(self, input):
            return convolve(self, input, relu=False)
        faster = (
            input.device.type == "cpu"
            and input.dim() == 4
            and output_size is None
            and (self.dilation, self.groups, self.output_padding) == ((1, 1), 1, (0, 0))
            and not torch.compiler.is_compiling()
            and not torch._C._is_tracing()
        )
        if faster and self.bias is not None:
            tensors = (input, self.weight, self.bias)
            dtype = _computing_dtype({tensor.dtype for tensor in tensors})
            if dtype is not None:
                result: Tensor = _ConvTranspose.apply(
                    *(tensor.to(dtype) for tensor in tensors), self.stride, self.padding
                )
                return result
        return super().forward(input, output_size)


def _computing_dtype(dtypes: set[torch.dtype]) -> torch.dtype | None:
    """The dtype in which torch convolves tensors of ``dtypes`` on a CPU; None for others than ``_DTYPES``, or if torch
    refuses."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return dtype if {dtype, *dtypes} <= _DTYPES else None
    return next(iter(dtypes)) if len(dtypes) == 1 and dtypes <= _DTYPES else None


class _ConvTranspose(torch.autograd.Function):
    """(x, weight, bias, stride, padding) -> y. The gradient of the bias is summed in a call of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        if (
            weight.shape[1:] == (1, 4, 4)
            and (stride, padding) == ((2, 2), (1, 1))
            and x.numel()
            and all(size % 2 == 0 for size in x.shape[2:])
        ):
            return _doubling_by_blocks(x, weight, bias)
        return F.conv_transpose2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, *_: None) -> Tensor:
        at_x, at_weight = ctx.saved_tensors
        by_x = F.conv_transpose2d(x, at_weight, bias, ctx.stride, ctx.padding)
        return by_x + F.conv_transpose2d(at_x, weight, None, ctx.stride, ctx.padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        settings = (ctx.stride, ctx.padding, (1, 1), True, (0, 0), 1)
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
            grad, x, weight, None, *settings, (need_x, need_weight, False)
        )
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if need_bias else None, None, None


# Each block of 2×2 input pixels becomes one of 4×4 output pixels, which depend on the 4×4 input pixels around. With input
# rows x and kernel rows k, output row 2m is k3 x[m - 1] + k1 x[m], and row 2m + 1 is k2 x[m] + k0 x[m + 1]. So these are
# the rows of a 4×4 kernel, one kernel for each row of the block; 4 stands for a row of zeros.
_KERNEL_ROWS = ((3, 1, 4, 4), (4, 2, 0, 4), (4, 3, 1, 4), (4, 4, 2, 0))

# A dtype of four times the size, to move four pixels at once.
_FOUR = {torch.float32: torch.complex128, torch.bfloat16: torch.float64}


def _doubling_by_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The transposed convolution with kernel 4, stride 2 and padding 1 to one channel; ``x`` has even height and width.

    It is computed as a convolution of stride 2 to the 16 pixels that each block becomes. A convolution to the four
    pixels that each input pixel becomes (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
    layer?") needs fewer multiplications, but oneDNN computes 16 channels for it, which are more than twice as many.
    """
    batch, _, height, width = x.shape
    rows = torch.tensor(_KERNEL_ROWS, device=weight.device)
    padded = F.pad(weight, (0, 1, 0, 1)).squeeze(1)
    kernels = padded[:, rows][..., rows]  # (channels, row of the block, row, column of the block, column)
    # Permutations rather than .to(memory_format=channels_last), which vmap lacks. The convolution's output is then
    # channels_last, too, except with a single input channel.
    kernels = kernels.permute(1, 3, 2, 4, 0).reshape(16, 4, 4, -1).permute(0, 3, 1, 2)
    pixels = F.conv2d(x, kernels, bias.repeat(16), stride=2, padding=1).permute(0, 2, 3, 1).contiguous()
    rows_of_blocks = pixels.view(batch, height // 2, width // 2, 4, 4).view(_FOUR[x.dtype]).squeeze(4)
    # (block's row, block's column, row) → (block's row, row, block's column). A clone, because .contiguous() keeps the
    # old stride of a dimension of size 1.
    image = rows_of_blocks.transpose(2, 3).clone(memory_format=torch.contiguous_format)
    return image.view(x.dtype).view(batch, 1, 2 * height, 2 * width)
