"""The kernels of a hidden layer's bias and ReLU, compared with plain torch, also with programs in any order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from triton.runtime import interpreter

from betavae_fast.ops.reductions import kl_dtype
from betavae_fast.ops.triton import bias_relu
from tests.budget import Budget, wide
from tests.layouts import GRADIENT_LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Fewer channels than a panel, as many, one more; one position and several tiles; no rows; (rows, features).
SHAPES = (
    *((1, 1, 4, 4), (3, 1, 6, 5), (2, 3, 5, 7), (1, 32, 8, 8), (2, 33, 6, 6), (1, 64, 1, 1), (0, 32, 4, 4)),
    *((2, 12, 2, 3), (64, 256), (1, 7), (37, 40)),
)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles small, so that several programs share a panel and their sums are added up in several rounds."""
    monkeypatch.setattr(bias_relu, "TILE", 128)
    monkeypatch.setattr(bias_relu, "FEW_TILES", 1)
    monkeypatch.setattr(bias_relu, "MOST_PROGRAMS", 5)
    monkeypatch.setattr(bias_relu, "PARTIALS", 64)


def draws(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, the bias in at least float32, and a gradient."""
    draw = torch.Generator().manual_seed(3)
    x, grad = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
    bias = torch.randn(shape[1], generator=draw).to(kl_dtype(dtype))
    return x.to(memory_format=torch.channels_last) if last else x, bias, grad


def plainly(x: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients of x and of the bias."""
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = F.relu(x + bias.view(-1, *[1] * (x.dim() - 2)))
    return (y.detach(), *torch.autograd.grad(y, (x, bias), grad))


def check(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> None:
    x, bias, grad = draws(shape, dtype, last)
    y = x.clone()
    counter = bias_relu.bias_relu_(y, bias)
    assert torch.equal(y, plainly(x.to(bias.dtype), bias, grad.to(bias.dtype))[0].to(dtype))
    # The ReLU sees the rounded number: a number that is rounded to 0 has no gradient.
    _, expected, _ = plainly(y.to(bias.dtype), torch.zeros_like(bias), grad.to(bias.dtype))
    terms = expected.transpose(0, 1).reshape(shape[1], -1).T.contiguous()
    for counted in (counter, counter, None):  # the first run leaves a zero for the second
        grad_x, grad_bias = bias_relu.bias_relu_backward(grad, y, counted, bias.dtype)
        assert torch.equal(grad_x, expected.to(dtype)) and grad_x.stride() == y.stride()
        assert grad_bias.dtype == bias.dtype
        if y.numel():
            budget = Budget()
            one_by_one = torch.from_numpy(terms.numpy().sum(0))
            budget.add(grad_bias, wide(terms).sum(0), one_by_one)
            budget.check(f"the bias's gradient for {shape}")
        else:
            assert not grad_bias.any()


CASES = [(s, last) for s in SHAPES for last in {False, len(s) == 4}]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "last"), CASES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    check(shape, dtype, last)


@pytest.mark.parametrize(("shape", "last"), CASES, ids=str)
def test_partial_sums_of_several_programs(shape: tuple[int, ...], last: bool, small_tiles: None) -> None:
    check(shape, DTYPES[(sum(shape) + last) % 4], last)


@pytest.mark.parametrize("name", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("last", [False, True])
def test_gradients_may_come_with_any_strides(name: str, last: bool) -> None:
    x, bias, grad = draws((2, 3, 4, 5), torch.float32, last)
    grad = GRADIENT_LAYOUTS[name](grad)
    y = x.clone()
    counter = bias_relu.bias_relu_(y, bias)
    grad_x, grad_bias = bias_relu.bias_relu_backward(grad, y, counter, bias.dtype)
    _, expected_x, expected_bias = plainly(x, bias, grad)
    assert torch.equal(grad_x, expected_x)
    torch.testing.assert_close(grad_bias, expected_bias)


def test_a_gap_between_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contiguous or channels_last tensors, got strides \(12, 2\)"):
        bias_relu.bias_relu_(torch.zeros(4, 12)[:, ::2], torch.zeros(6))


def _reversed(index: Callable[..., None], programs: list[int]) -> Callable[..., None]:
    return lambda builder, x, y, z: index(builder, programs[0] - 1 - x, y, z)


@pytest.mark.parametrize("last", [False, True])
def test_sums_do_not_depend_on_which_program_ends_last(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs one after the other, here in order, then in reverse, then with the sum in a separate
    launch.
    """
    monkeypatch.setattr(bias_relu, "TILE", 64)
    x, bias, grad = draws((5, 33, 8, 8), torch.float32, last)
    y = x.clone()
    counter = bias_relu.bias_relu_(y, bias)
    tiles = bias_relu._tiles(y)
    assert tiles.chunks > 1
    backward = lambda counted: bias_relu.bias_relu_backward(grad, y, counted, bias.dtype)
    results = [backward(counter), backward(None)]
    index = interpreter.InterpreterBuilder.set_grid_idx
    monkeypatch.setattr(
        interpreter.InterpreterBuilder, "set_grid_idx", _reversed(index, [tiles.chunks * tiles.panels])
    )
    results.append(backward(counter))
    assert counter == 0
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


CONVOLUTIONS = {
    "conv": lambda x, weight, bias: F.conv2d(x, weight, bias, 2, 1),
    "deconv": lambda x, weight, bias: F.conv_transpose2d(x, weight.transpose(0, 1), bias, 2, 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("channels", [1, 3, 32, 33, 64])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_convolution_and_its_relu(batch: int, channels: int, name: str) -> None:
    """In float64 only a mistake would make a difference."""
    convolution = CONVOLUTIONS[name]
    x = torch.randn(batch, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    expected = convolution(x, weight, bias).relu()
    grad = torch.randn_like(expected)
    before = convolution(x, weight, None)
    y = before.detach().clone()
    counter = bias_relu.bias_relu_(y, bias.detach())
    grad_y, grad_bias = bias_relu.bias_relu_backward(grad, y, counter, bias.dtype)
    got = (y, *torch.autograd.grad(before, (x, weight), grad_y), grad_bias)
    torch.testing.assert_close(
        got, (expected.detach(), *torch.autograd.grad(expected, (x, weight, bias), grad))
    )
