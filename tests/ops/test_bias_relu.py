"""A ReLU together with the layer before it, in plain torch: the operators and their derivatives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from betavae_fast.ops import bias_relu
from betavae_fast.ops.bias_relu import BiasReluFunction, LinearReluFunction

SHAPES = ((5, 3), (2, 3, 4, 5), (1, 1, 2, 2), (0, 3, 2, 2))
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def kernels_leave_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that backward runs outside grad mode: a kernel has no derivatives, unlike the plain torch in its place."""
    operator = bias_relu._BACKWARD

    def backward(*arguments: Any) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled()
        return operator(*arguments)

    monkeypatch.setattr(bias_relu, "_BACKWARD", backward)


def hidden(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, last: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.to(memory_format=torch.channels_last) if last else x


def plainly(x: Tensor, bias: Tensor) -> Tensor:
    return F.relu(x + bias.view(-1, *[1] * (x.dim() - 2)))


def together(x: Tensor, bias: Tensor) -> Tensor:
    return BiasReluFunction.apply(x.clone(), bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "last"), [(s, last) for s in SHAPES for last in {False, len(s) == 4}], ids=str
)
def test_values_and_gradients_are_those_of_plain_torch(
    shape: tuple[int, ...], last: bool, dtype: torch.dtype
) -> None:
    x, bias = hidden(shape, dtype, last), torch.linspace(-1, 1, shape[1]).to(dtype)
    grad = torch.randn(shape[::-1]).to(dtype).permute(*reversed(range(len(shape))))
    found = []
    for function in (together, plainly):
        leaves = [t.clone().requires_grad_() for t in (x, bias)]
        y = function(*leaves)
        found.append((y, *torch.autograd.grad(y, leaves, grad)))
    (y, grad_x, grad_bias), expected = found
    assert torch.equal(y, expected[0]) and torch.equal(grad_x, expected[1])
    torch.testing.assert_close(grad_bias, expected[2])
    assert y.stride() == x.stride() and grad_x.stride() == y.stride()


def test_a_bias_keeps_its_digits_beside_an_output_of_fewer() -> None:
    """Under autocast, biases and their gradients are float32 and the outputs of layers bfloat16."""
    x, bias = hidden((2000, 3), torch.bfloat16), torch.tensor([1e-4, 1.0001, -1e-3], requires_grad=True)
    y = together(x, bias)
    y.sum().backward()
    assert torch.equal(y, (x.float() + bias).relu().bfloat16())
    assert torch.equal(bias.grad, (y > 0).sum(0).float())
    assert bias.grad.max() > 256 and not torch.equal(bias.grad, bias.grad.bfloat16().float())


def test_nan_is_neither_hidden_nor_cut_off() -> None:
    x = torch.tensor([[torch.nan, -1.0, 1.0]], requires_grad=True)
    y = together(x, torch.zeros(3))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y[0, 0].isnan() and grad.tolist() == [[1, 0, 1]]
    assert torch.equal(grad, torch.autograd.grad(x.relu().sum(), x)[0])


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_derivatives_of_the_bias_and_relu(shape: tuple[int, ...]) -> None:
    """The test takes derivatives of first and second order, one at a time and, with is_grads_batched, many at a time."""
    leaves = hidden(shape).requires_grad_(), torch.linspace(-1, 1, shape[1]).double().requires_grad_()
    torch.autograd.gradcheck(together, leaves, check_batched_grad=True)
    torch.autograd.gradgradcheck(together, leaves, check_batched_grad=True)


@pytest.mark.parametrize("needs", [n for n in itertools.product((False, True), repeat=3) if any(n)], ids=str)
def test_derivatives_of_a_linear_layer_and_relu(needs: tuple[bool, ...]) -> None:
    leaves = [
        t.requires_grad_(need)
        for t, need in zip((hidden((4, 3)), hidden((5, 3)) * 2, hidden((1, 5))[0]), needs, strict=True)
    ]
    assert torch.equal(LinearReluFunction.apply(*leaves), F.linear(*leaves).relu())
    torch.autograd.gradcheck(LinearReluFunction.apply, leaves, check_batched_grad=True)
    torch.autograd.gradgradcheck(LinearReluFunction.apply, leaves, check_batched_grad=True)
    grads = torch.autograd.grad(
        LinearReluFunction.apply(*leaves).sum(), [t for t in leaves if t.requires_grad]
    )
    assert all(g.is_contiguous() for g in grads)


def test_a_graph_that_is_kept_gives_the_same_gradients_again() -> None:
    x, bias = hidden((6, 3)).requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    y = together(x, bias).square().sum()
    first = torch.autograd.grad(y, (x, bias), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(y, (x, bias)), strict=True))


def test_what_is_written_over_is_missed_by_who_saved_it() -> None:
    x = hidden((6, 3)).requires_grad_()
    y = x.exp()  # exp saves its result
    z = BiasReluFunction.apply(y, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


OPERATORS = ("bias_relu_", "bias_relu_backward")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(operator: str, dtype: torch.dtype) -> None:
    for shape, last in ((SHAPES[0], False), (SHAPES[1], False), (SHAPES[1], True), (SHAPES[3], False)):
        x, bias = hidden(shape, dtype, last), torch.linspace(-1, 1, shape[1])
        counters = (None, torch.zeros(1, dtype=torch.int32))
        samples = [(x, bias)] if operator == "bias_relu_" else [(x, x, c, torch.float32) for c in counters]
        for arguments in samples:
            torch.library.opcheck(
                getattr(torch.ops.betavae_fast, operator).default,
                arguments,
                test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
            )
