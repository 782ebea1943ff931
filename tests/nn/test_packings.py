"""From an encoder's output to (μ, log σ²): views where possible, and exact arithmetic otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from betavae_fast import reparameterize_kl
from betavae_fast.nn import from_log_sigma, from_sigma, from_softplus, split_halves, split_interleaved
from tests.budget import Budget

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


def shares_memory(view: Tensor, base: Tensor) -> bool:
    return view.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()


@EVERY_DTYPE
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_halves_are_views_of_any_dimension(dim: int, dtype: torch.dtype) -> None:
    packed = torch.randn(4, 6, 2).to(dtype)
    mu, logvar = split_halves(packed, dim)
    assert shares_memory(mu, packed) and shares_memory(logvar, packed)
    assert torch.equal(torch.cat((mu, logvar), dim), packed)


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 2), (2, 3, 4, 5, 2)], ids=str)
def test_pairs_are_views(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    packed = torch.randn(shape).to(dtype)
    mu, logvar = split_interleaved(packed)
    assert shares_memory(mu, packed) and shares_memory(logvar, packed)
    assert torch.equal(mu, packed[..., 0]) and torch.equal(logvar, packed[..., 1])


@pytest.mark.parametrize("split", [split_halves, split_interleaved])
def test_gradients_land_where_the_moments_lie(split) -> None:
    packed = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    noise = torch.randn_like(split(packed)[0])

    def sample(x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(reparameterize_kl(*split(x), noise=noise, reduction="sample"))

    assert torch.autograd.gradcheck(sample, packed)


@EVERY_DTYPE
def test_doubling_log_sigma_is_exact(dtype: torch.dtype) -> None:
    log_sigma = torch.randn(5, 3).to(dtype).requires_grad_()
    mu = torch.zeros(5, 3, dtype=dtype)
    same, logvar = from_log_sigma(mu, log_sigma)
    assert same is mu and torch.equal(logvar, log_sigma + log_sigma)
    (grad,) = torch.autograd.grad(logvar.sum(), log_sigma)
    assert torch.equal(grad, torch.full_like(grad, 2))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda d: str(d)[6:])
def test_sigma_stays_within_the_budget(dtype: torch.dtype) -> None:
    sigma = torch.linspace(-12, 9, 997).exp().to(dtype).requires_grad_()
    _, logvar = from_sigma(sigma, sigma)
    (grad,) = torch.autograd.grad(logvar.sum(), sigma)
    exact = sigma.detach().double()
    plain = exact.float().log().mul(2), 2 / exact.float()
    for name, *values in zip(
        ("value", "gradient"), (logvar, grad), (2 * exact.log(), 2 / exact), plain, strict=True
    ):
        budget = Budget()
        budget.add(values[0], values[1].numpy(), values[2])
        budget.check(name)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda d: str(d)[6:])
def test_softplus_stays_within_the_budget(dtype: torch.dtype) -> None:
    """The test covers value and gradient across the points where the formula changes and where σ underflows."""
    raw = torch.cat((torch.linspace(-400, 80, 997), torch.linspace(-21, -19, 101))).to(dtype).requires_grad_()
    _, logvar = from_softplus(raw, raw)
    (grad,) = torch.autograd.grad(logvar.float().sum(), raw)
    x = raw.detach().double()
    softplus = torch.log1p(x.exp())
    exact = 2 * softplus.log(), 2 * x.sigmoid() / softplus
    # The hand-written formula underflows. Where it does, only one rounding is allowed.
    y = raw.detach().float()
    for name, found, truth in zip(("value", "gradient"), (logvar, grad), exact, strict=True):
        by_hand = torch.log1p(y.exp())
        by_hand = 2 * by_hand.log() if name == "value" else 2 * y.sigmoid() / by_hand
        by_hand = torch.where((y > -80) & by_hand.isfinite(), by_hand, truth.float())
        budget = Budget()
        budget.add(found, truth.numpy(), by_hand)
        budget.check(name)


def test_softplus_in_float64() -> None:
    raw = torch.tensor([-700.0, -21.0, -20.0, -19.0, 0.0, 30.0], dtype=torch.float64, requires_grad=True)
    _, logvar = from_softplus(raw, raw)
    expected = [2 * math.log(math.log1p(math.exp(x))) for x in raw.tolist()]
    torch.testing.assert_close(logvar, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=1e-15)
    assert torch.autograd.gradcheck(lambda x: from_softplus(x, x)[1], raw)


@pytest.mark.parametrize("convert", [from_log_sigma, from_sigma, from_softplus])
def test_nan_stays_where_it_was(convert) -> None:
    x = torch.tensor([math.nan, 1.0], requires_grad=True)
    _, logvar = convert(x, x)
    (grad,) = torch.autograd.grad(logvar.sum(), x)
    assert logvar.isnan().tolist() == [True, False] and grad[1].isfinite()


def test_malformed_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"dimension 1 .* got \(4, 5\)"):
        split_halves(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"dimension 3 .* got \(4, 6\)"):
        split_halves(torch.zeros(4, 6), 3)
    with pytest.raises(ValueError, match=r"got \(4, 6\)"):
        split_interleaved(torch.zeros(4, 6))
    for function in (split_halves, split_interleaved):
        with pytest.raises(TypeError, match=f"{function.__name__}: packed must be .* got torch.int64"):
            function(torch.zeros(4, 2, dtype=torch.int64))
    for function in (from_log_sigma, from_sigma, from_softplus):
        with pytest.raises(TypeError, match=f"{function.__name__}: .* got str 'x'"):
            function(torch.zeros(2), "x")
