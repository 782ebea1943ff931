"""Many tensors in another dtype at once, against one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from betavae_fast.ops.casting import CastAll

Cast = Callable[..., tuple[Tensor, ...]]


def one_by_one(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(dtype) for t in tensors)


def weights() -> list[Tensor]:
    shapes = ((3, 2, 4, 4), (5, 3), (7,), (0, 2))
    draw = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=draw) for shape in shapes]
    found[0] = found[0].to(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in found]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_values_gradients_and_strides(dtype: torch.dtype) -> None:
    found = []
    for cast in (CastAll.apply, one_by_one):
        leaves = weights()
        copies = cast(dtype, *leaves)
        grads = torch.autograd.grad(sum((c * c).sum() for c in copies), leaves)
        found.append([*copies, *grads])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


def test_only_what_needs_a_gradient_and_has_one_gets_it() -> None:
    frozen, used, unused = (t.detach() for t in weights()[:3])
    used.requires_grad_()
    unused.requires_grad_()
    copies = CastAll.apply(torch.bfloat16, frozen, used, unused)
    assert [c.requires_grad for c in copies] == [False, True, True]
    copies[1].sum().backward()
    assert unused.grad is None and torch.equal(used.grad, torch.ones_like(used))
    with torch.no_grad():
        assert not any(c.requires_grad for c in CastAll.apply(torch.bfloat16, used, unused))


def test_second_derivatives_and_many_gradients_at_once() -> None:
    leaves = [t.detach().requires_grad_() for t in weights()[1:3]]

    def squares(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(c * c for c in CastAll.apply(torch.float64, *(t.float() for t in tensors)))

    leaves = [t.double().detach().requires_grad_() for t in leaves]
    settings = {"eps": 1e-2, "atol": 1e-3, "check_batched_grad": True}  # float32 lies between
    torch.autograd.gradcheck(squares, leaves, **settings)
    torch.autograd.gradgradcheck(squares, leaves, **settings)
