"""The pair of torch.distributions classes, compared with torch's own Independent(Normal)."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from betavae_fast import gaussian_kl, reparameterize
from betavae_fast.integrations.distributions import DiagonalNormal, StandardNormal
from betavae_fast.nn import posterior as passes
from tests.budget import Budget, exact_latent, plain_latent

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


def moments(
    shape: tuple[int, ...] = (64, 5), dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_() for _ in range(2)]


def torch_s(mu: Tensor, logvar: Tensor) -> Independent:
    return Independent(Normal(mu, (0.5 * logvar).exp()), mu.dim() - 1)


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(64, 5), (32, 3, 4, 4)], ids=str)
def test_kl_and_gradients_stay_within_the_budget(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mu, logvar = moments(shape, dtype)
    kl = kl_divergence(DiagonalNormal(mu, logvar), StandardNormal(shape[1:], dtype=dtype))
    grad_kl, nothing = torch.randn_like(kl), torch.zeros_like(mu)
    found = kl, *torch.autograd.grad(kl, (mu, logvar), grad_kl)
    arguments = mu, logvar, nothing, nothing, grad_kl, "sample"
    for name, *values in zip(
        ("kl", "grad_mu", "grad_logvar"),
        found,
        exact_latent(*arguments)[1:],
        plain_latent(*arguments)[1:],
        strict=True,
    ):
        budget = Budget()
        budget.add(*values)
        budget.check(name)


@pytest.mark.parametrize("standard", [True, False])
def test_kl_is_torch_s(standard: bool) -> None:
    mu, logvar = moments(dtype=torch.float64)
    zeros = torch.zeros(5, dtype=torch.float64)
    other, theirs = StandardNormal((5,), dtype=torch.float64), Independent(Normal(zeros, zeros.exp()), 1)
    if not standard:
        others = moments(dtype=torch.float64, seed=1)
        other, theirs = DiagonalNormal(*others), torch_s(*others)
    ours = kl_divergence(DiagonalNormal(mu, logvar), other)
    expected = kl_divergence(torch_s(mu, logvar), theirs)
    torch.testing.assert_close(ours, expected)
    for grads in zip(*(torch.autograd.grad(kl.sum(), (mu, logvar)) for kl in (ours, expected)), strict=True):
        torch.testing.assert_close(*grads)


def test_everything_else_is_torch_s() -> None:
    mu, logvar = moments(dtype=torch.float64)
    q, theirs = DiagonalNormal(mu, logvar), torch_s(mu, logvar)
    assert isinstance(q, Independent) and q.has_rsample
    assert q.batch_shape == theirs.batch_shape and q.event_shape == theirs.event_shape
    at = torch.randn(7, 64, 5, dtype=torch.float64)
    for name in ("mean", "mode", "variance", "stddev"):
        torch.testing.assert_close(getattr(q, name), getattr(theirs, name))
    torch.testing.assert_close(q.log_prob(at), theirs.log_prob(at))
    torch.testing.assert_close(q.entropy(), theirs.entropy())
    wider = q.expand((3, 64))
    assert wider.batch_shape == (3, 64) and wider.rsample().shape == (3, 64, 5)
    # Torch's own KL against a distribution of another kind.
    torch.testing.assert_close(kl_divergence(q, theirs), torch.zeros(64, dtype=torch.float64))
    prior = StandardNormal((5,), dtype=torch.float64)
    assert prior.expand((4,)).batch_shape == (4,)
    torch.testing.assert_close(prior.log_prob(at[0]), Normal(0, 1).log_prob(at[0]).sum(-1))


def test_samples_are_the_fused_op_s_and_differentiable() -> None:
    mu, logvar = moments()
    q = DiagonalNormal(mu, logvar)
    for shape in ((), (7,), (2, 3)):
        torch.manual_seed(4)
        z = q.rsample(shape)
        torch.manual_seed(4)
        whole = (*shape, *mu.shape)
        assert torch.equal(z, reparameterize(mu.expand(whole), logvar.expand(whole)))
        grads = torch.autograd.grad(z.sum(), (mu, logvar))
        noise = (z - mu) / (0.5 * logvar).exp()
        torch.testing.assert_close(grads[0], torch.full_like(mu, z.numel() / mu.numel()))
        expected = 0.5 * (0.5 * logvar).exp() * noise
        torch.testing.assert_close(grads[1], expected.reshape(-1, *mu.shape).sum(0), rtol=1e-4, atol=1e-4)
        assert not q.sample(shape).requires_grad


def test_sample_and_kl_take_one_pass() -> None:
    q = DiagonalNormal(*moments())
    with mock.patch.object(passes, "gaussian_kl", wraps=gaussian_kl) as counted:
        q.rsample()
        kl_divergence(q, StandardNormal((5,)))
    counted.assert_not_called()


def test_from_an_independent_normal() -> None:
    mu, logvar = moments(dtype=torch.float64)
    q = DiagonalNormal.of(torch_s(mu, logvar))
    torch.testing.assert_close(q.logvar, logvar)
    kl = kl_divergence(q, StandardNormal((5,), dtype=torch.float64))
    torch.testing.assert_close(kl, gaussian_kl(mu, logvar, reduction="sample"))
    assert all(g.any() for g in torch.autograd.grad(kl.sum(), (mu, logvar)))


def test_torch_s_kl_cancels_and_ours_does_not() -> None:
    """Channels that are hardly used have σ near 1."""
    logvar = torch.linspace(1e-3, 0.1, 1001).unsqueeze(1)
    for dtype, theirs_is_off in ((torch.bfloat16, 0.5), (torch.float32, 1e-4)):
        v = logvar.to(dtype)
        mu, exact = torch.zeros_like(v), 0.5 * (v.double().expm1() - v.double()).squeeze(1)
        prior = StandardNormal((1,), dtype=dtype)
        kls = [kl_divergence(q, prior) for q in (DiagonalNormal(mu, v), torch_s(mu, v))]
        ours, theirs = (((kl.double() - exact) / exact).abs().max().item() for kl in kls)
        assert ours < 1e-6 and theirs > theirs_is_off


def test_malformed_arguments_are_named() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=r"mu must be .* got torch\.int64"):
        DiagonalNormal(x.long(), x)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        DiagonalNormal(x, x[:, :2])
    with pytest.raises(TypeError, match="got Normal"):
        DiagonalNormal.of(Normal(x, x.exp()))
    with pytest.raises(ValueError, match=r"got \(4, 3\)"):
        DiagonalNormal.of(Independent(Normal(x, x.exp()), 0))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        kl_divergence(DiagonalNormal(x, x), StandardNormal((2,)))


@pytest.mark.parametrize("written", range(3))
def test_a_copy_s_kl_is_its_own(written: int) -> None:
    """The KL of a copy is right however often μ was written to before the sample."""
    mu, logvar = (x.detach() for x in moments())
    for _ in range(written):
        mu.mul_(1)
        logvar.mul_(1)
    ours, prior = DiagonalNormal(mu, logvar), StandardNormal((5,))
    ours.rsample()
    other = copy.deepcopy(ours)
    other.mu.zero_()
    other.logvar.zero_()
    assert kl_divergence(other, prior).eq(0).all() and not kl_divergence(ours, prior).eq(0).any()
