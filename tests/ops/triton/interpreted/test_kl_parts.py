"""The kernels of the KL's parts, compared with plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from betavae_fast.ops import kl_parts as plain
from betavae_fast.ops.triton import kl_parts as triton

pytestmark = pytest.mark.usefixtures("poisoned_memory")
SIZES = [(1, 1), (3, 5), (64, 10), (300, 33), (4000, 10)]  # the last size takes several programs


def inputs(size: tuple[int, int], dtype: torch.dtype, strided: bool) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(sum(size))
    z, mu, logvar = (torch.randn(size, generator=draw, dtype=dtype) for _ in range(3))
    mu[0], logvar[0] = z[0], -1000.0  # below the smallest log-variance
    joint, marginals = (torch.randn(shape, generator=draw).double() for shape in (size[:1], size))
    if strided:
        z, mu, logvar = (x.t().contiguous().t() for x in (z, mu, logvar))
    return z, mu, logvar, joint, marginals


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_parts_are_plain_torchs(size: tuple[int, int], dtype: torch.dtype, strided: bool) -> None:
    given = inputs(size, dtype, strided)
    torch.testing.assert_close(triton.kl_parts(*given), plain.kl_parts(*given))


@pytest.mark.parametrize("other_posteriors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_gradients_are_plain_torchs(
    size: tuple[int, int], dtype: torch.dtype, other_posteriors: bool
) -> None:
    z, mu, logvar, *_ = inputs(size, dtype, strided=True)
    draw = torch.Generator().manual_seed(1)
    grad, grad_z = (torch.randn(shape, generator=draw, dtype=dtype) for shape in ((6,), size))
    of_posteriors = (
        (None, None) if other_posteriors else (torch.randn(size, generator=draw, dtype=dtype),) * 2
    )
    given = grad[::2], z, mu, logvar, grad_z, *of_posteriors
    for got, want in zip(triton.kl_parts_backward(*given), plain.kl_parts_backward(*given), strict=True):
        torch.testing.assert_close(got, want)
    assert not triton.kl_parts_backward(*given)[2][0].any()
