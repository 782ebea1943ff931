"""Each objective, compared with its formula written out in float64, its gradients, and the published defaults."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from betavae_fast import objectives
from tests.objectives.cases import DIMS, NAMES, ROWS, inputs, objective, posterior


def numbers():
    """The reconstruction, the KL of each dim, z, μ and σ² in NumPy, by their definitions."""
    z, mu, logvar = (x.detach().numpy() for x in posterior())
    kl = np.mean((mu**2 + np.exp(logvar) - logvar - 1) / 2, axis=0)
    return 40 + np.mean(np.sum(z**2, axis=1)), kl, z, mu, np.exp(logvar)


def log_normal(z, mu, variance):
    return -((z - mu) ** 2 / variance + np.log(2 * np.pi * variance)) / 2


def decomposition(n):
    """The three parts by minibatch weighted sampling, computed term by term."""
    _, _, z, mu, variance = numbers()
    mi = tc = dw = 0.0
    for i in range(ROWS):
        density = np.array([log_normal(z[i], mu[j], variance[j]) for j in range(ROWS)])  # (B, D)
        joint = np.log(np.exp(density.sum(1)).sum() / (n * ROWS))
        marginals = np.log(np.exp(density).sum(0) / (n * ROWS)).sum()
        mi += (density[i].sum() - joint) / ROWS
        tc += (joint - marginals) / ROWS
        dw += (marginals - log_normal(z[i], 0.0, 1.0).sum()) / ROWS
    return mi, tc, dw


def dip(aggregate, off_diagonal, diagonal):
    total = 0.0
    for i in range(DIMS):
        for j in range(DIMS):
            total += diagonal * (aggregate[i, j] - 1) ** 2 if i == j else off_diagonal * aggregate[i, j] ** 2
    return total


def test_beta():
    reconstruction, kl, *_ = numbers()
    for options, beta in (
        ({}, 4.0),
        ({"beta": 1.5}, 1.5),
        ({"beta": 8.0, "beta_warmup": 4}, 6.0),
        ({"beta": 1.0, "beta_start": 16.0, "beta_hold": 1, "beta_steps": 4}, 4.0),
    ):
        total, metrics = objective("beta", **options)(inputs(*posterior(), step=3))
        assert metrics["beta"].item() == beta
        assert total.item() == pytest.approx(reconstruction + beta * kl.sum(), rel=1e-14)


@pytest.mark.parametrize("capacity", [0.0, 1.0, 10.0])  # below and above the KL
def test_capacity(capacity):
    reconstruction, kl, *_ = numbers()
    assert 1.0 < kl.sum() < 5.0
    made = objective("capacity", capacity=capacity, capacity_steps=6, capacity_weight=30.0)
    total, metrics = made(inputs(*posterior(), step=3))
    assert metrics["capacity"].item() == capacity / 2
    assert total.item() == pytest.approx(reconstruction + 30 * abs(kl.sum() - capacity / 2), rel=1e-14)


def test_capacity_takes_the_distance_of_the_mean_not_the_mean_distance():
    """Two images of 2 nats and 0 nats have no distance from a capacity of 1."""
    mu = torch.tensor([[2.0], [0.0]])
    batch = inputs(torch.zeros(2, 1), mu, torch.zeros(2, 1), step=10)
    made = objectives.Capacity(1.0, steps=1)
    assert float(made(batch).total) == float(batch.reconstruction)


def test_free_bits():
    reconstruction, kl, *_ = numbers()
    limit = float(np.sort(kl)[1])  # of the three dims, one is below, one at and one above the limit
    total, metrics = objective("free-bits", free_bits=limit + 1e-3)(inputs(*posterior()))
    charged = sum(max(limit + 1e-3, value) for value in kl)
    assert metrics["charged_kl"].item() == pytest.approx(charged, rel=1e-14)
    assert total.item() == pytest.approx(reconstruction + charged, rel=1e-14)


def test_free_bits_pull_on_no_dim_below_the_limit():
    z, mu, logvar = posterior()
    batch = inputs(z.detach(), mu, logvar)
    below = batch.kl_per_dim < batch.kl_per_dim.median()
    objective("free-bits", free_bits=batch.kl_per_dim.median().item() - 1e-6)(batch).total.backward()
    assert ((mu.grad == 0).all(0) == below).all() and below.any() and not below.all()


def test_beta_per_dim():
    reconstruction, kl, *_ = numbers()
    total, metrics = objective("beta-per-dim")(inputs(*posterior()))
    weighted = kl[0] + 2.5 * kl[1]
    assert metrics["weighted_kl"].item() == pytest.approx(weighted, rel=1e-14)
    assert total.item() == pytest.approx(reconstruction + weighted, rel=1e-14)
    with pytest.raises(ValueError, match=r"2 betas for latent dims of shape \(3,\)"):
        objectives.BetaPerDim([1.0, 2.0])(inputs(*posterior()))


def test_lagrangian_and_geco():
    reconstruction, kl, *_ = numbers()
    total, metrics = objectives.Lagrangian(kl_limit=0.7, beta=3.0)(inputs(*posterior()))
    assert metrics["slackness"].item() == pytest.approx(3 * (kl.sum() - 0.7), rel=1e-14)
    assert total.item() == pytest.approx(reconstruction + 3 * (kl.sum() - 0.7), rel=1e-14)

    geco = objectives.Geco(reconstruction_limit=30.0)
    geco.log_multiplier.fill_(0.5)
    total, metrics = geco(inputs(*posterior()))
    multiplier = float(np.exp(np.float32(0.5)))
    assert metrics["constraint"].item() == pytest.approx(reconstruction - 30, rel=1e-14)
    assert total.item() == pytest.approx(kl.sum() + multiplier * (reconstruction - 30), rel=1e-6)


@pytest.mark.parametrize("mi_weight, tc_weight, dimension_wise_weight", [(1, 6, 1), (0.5, 2.0, 3.0)])
def test_beta_tc(mi_weight, tc_weight, dimension_wise_weight):
    reconstruction, *_ = numbers()
    parts = decomposition(n=100)
    made = objective(
        "btcvae",
        mi_weight=mi_weight,
        tc_weight=tc_weight,
        dimension_wise_weight=dimension_wise_weight,
        tc_estimator="mws",
    )
    total, metrics = made(inputs(*posterior()))
    assert [metrics[name].item() for name in made.logged] == pytest.approx(parts, rel=1e-12)
    expected = reconstruction + np.dot((mi_weight, tc_weight, dimension_wise_weight), parts)
    assert total.item() == pytest.approx(expected, rel=1e-12)


def test_beta_tc_starts_at_a_multiple_of_all_its_weights():
    made = objective("btcvae", weights_start=16.0, weights_hold=1, weights_steps=4)
    plain = objective("btcvae")
    batch = inputs(*posterior(), step=3)  # half-way from 16 to 1, on a logarithmic scale
    penalty = plain(batch).total - batch.reconstruction
    assert made(batch).total.item() == pytest.approx((batch.reconstruction + 4 * penalty).item(), rel=1e-12)


def test_the_total_correlation_starts_at_a_further_factor():
    made = objective(
        "btcvae", weights_start=16.0, weights_hold=1, weights_steps=4, tc_start=9.0, tc_steps=8, tc_weight=5.0
    )
    batch = inputs(
        *posterior(), step=5
    )  # the weights have fallen, their further factor is half-way from 9 to 1
    total, parts = made(batch)
    expected = batch.reconstruction + parts["mutual_information"] + parts["dimension_wise_kl"]
    expected = expected + 5 * 3 * parts["total_correlation"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_beta_tc_by_default_is_the_kl_and_more_of_the_total_correlation():
    reconstruction, _, z, mu, variance = numbers()
    sampled_kl = np.mean(np.sum(log_normal(z, mu, variance) - log_normal(z, 0.0, 1.0), axis=1))
    for estimator in ("mss", "mws"):
        total, metrics = objective("btcvae", tc_estimator=estimator)(inputs(*posterior()))
        expected = reconstruction + sampled_kl + 5 * metrics["total_correlation"].item()
        assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name, diagonal", [("dipvae-i", 100.0), ("dipvae-ii", 10.0)])
def test_dip(name, diagonal):
    reconstruction, kl, _, mu, variance = numbers()
    aggregate = np.cov(mu.T, bias=True)
    if name == "dipvae-ii":
        aggregate = aggregate + np.diag(variance.mean(0))
    total, metrics = objective(name)(inputs(*posterior()))
    expected = reconstruction + kl.sum() + dip(aggregate, 10.0, diagonal)
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert metrics["off_diagonal"].item() == pytest.approx(dip(aggregate, 1.0, 0.0), rel=1e-12)
    assert metrics["diagonal"].item() == pytest.approx(dip(aggregate, 0.0, 1.0), rel=1e-12)


def test_dip_does_not_cancel_far_from_the_origin():
    z, mu, logvar = (x.detach() for x in posterior())
    near = objective("dipvae-i")(inputs(z, mu, logvar)).metrics
    far = objective("dipvae-i")(inputs(z, mu.float() + 1000, logvar.float())).metrics
    for name, value in near.items():
        torch.testing.assert_close(far[name].double(), value, rtol=1e-3, atol=0)


def test_factor():
    reconstruction, kl, z, *_ = numbers()
    made = objective("factorvae").double()
    total, metrics = made(inputs(*posterior()))
    hidden = z
    *layers, last = [layer for layer in made.discriminator if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        hidden = hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    logits = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    expected = np.mean(logits[:, 0] - logits[:, 1])
    assert len(layers) == 6
    assert metrics["total_correlation"].item() == pytest.approx(expected, rel=1e-10)
    assert total.item() == pytest.approx(reconstruction + kl.sum() + 35 * expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    made = objective(name).double()
    assert torch.autograd.gradcheck(lambda *moments: made(inputs(*moments)).total, posterior())


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_announced(name):
    _, metrics = objective(name)(inputs(*(x.float() for x in posterior())))
    assert tuple(metrics) == objective(name).logged
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize(
    "made, published",
    [
        (objectives.Beta, {"beta": 4, "warmup": 0, "cycle": 0}),
        (objectives.Capacity, {"capacity": 25, "steps": 100_000, "gamma": 1000}),
        (objectives.Geco, {"decay": 0.99}),
        (objectives.BetaTC, {"alpha": 1, "beta": 6, "gamma": 1}),
        (objectives.FactorVAE, {"gamma": 35, "lr": 1e-4, "width": 1000}),
        (objectives.DIPVAEI, {"off_diagonal": 10, "diagonal": 100}),
        (objectives.DIPVAEII, {"off_diagonal": 10, "diagonal": 10}),
    ],
)
def test_published_defaults(made, published):
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in published} == published


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: objectives.Beta(-1.0), "beta must be a finite number of at least 0, got -1.0"),
        (lambda: objectives.Beta(warmup=-1), "warmup must be at least 0, got -1"),
        (lambda: objectives.Beta(cycle=4), "a cycle of 4 steps needs a warmup of 1 to 4, got 0"),
        (lambda: objectives.Beta(warmup=5, cycle=4), "a cycle of 4 steps needs a warmup of 1 to 4, got 5"),
        (lambda: objectives.Beta(start=0.0, steps=4), "start must be a finite positive number, got 0.0"),
        (
            lambda: objectives.Beta(steps=4),
            "beta_steps is 4, but there is no beta_start",
        ),
        (
            lambda: objectives.Beta(hold=3),
            "beta_hold is 3, but there is no beta_start",
        ),
        (
            lambda: objectives.Beta(start=8.0),
            "beta_start is 8.0, so beta_steps must be at least 1, got 0",
        ),
        (
            lambda: objectives.Beta(0.0, start=8.0, steps=4),
            "beta_start is 8.0, so beta must be above 0, got 0.0",
        ),
        (
            lambda: objectives.Beta(start=8.0, steps=4, warmup=2),
            "give beta_start or beta_warmup, not both; got 8.0 and 2",
        ),
        (
            lambda: objectives.BetaTC(10, start=2.0),
            "weights_start is 2.0, so weights_steps must be at least 1, got 0",
        ),
        (
            lambda: objectives.BetaTC(10, tc_start=2.0, tc_steps=3),
            "tc_start is 2.0, but there is no weights_start",
        ),
        (lambda: objectives.BetaTC(10, tc_steps=3), "tc_steps is 3, but there is no tc_start"),
        (
            lambda: objectives.BetaTC(10, start=2.0, steps=3, tc_start=2.0),
            "tc_start is 2.0, so tc_steps must be at least 1, got 0",
        ),
        (lambda: objectives.Capacity(float("inf")), "capacity must be .* got inf"),
        (lambda: objectives.Capacity(steps=-1), "steps must be at least 0, got -1"),
        (lambda: objectives.Capacity(gamma=-2.0), "gamma must be .* got -2.0"),
        (lambda: objectives.FreeBits(-0.1), "free_bits must be .* got -0.1"),
        (lambda: objectives.Lagrangian(0.0), "kl_limit must be a finite positive number, got 0.0"),
        (lambda: objectives.Lagrangian(1.0, lr=0.0), "lr must be a finite positive number, got 0.0"),
        (lambda: objectives.Lagrangian(1.0, beta=-1.0), "beta must be .* got -1.0"),
        (lambda: objectives.Geco(float("nan")), "reconstruction_limit must be a finite number, got nan"),
        (lambda: objectives.Geco(1.0, decay=1.0), "decay must be at least 0 and below 1, got 1.0"),
        (lambda: objectives.BetaPerDim([1.0, -1.0]), "each of betas must be .* got -1.0"),
        (lambda: objectives.BetaTC(10, beta=-1.0), "beta must be .* got -1.0"),
        (lambda: objectives.FactorVAE(2, gamma=-1.0), "gamma must be .* got -1.0"),
        (lambda: objectives.FactorVAE(2, lr=0.0), "lr must be .* got 0.0"),
        (lambda: objectives.DIPVAEI(diagonal=-1.0), "diagonal must be .* got -1.0"),
    ],
)
def test_a_number_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize("name", ["beta", "beta-per-dim", "btcvae"])
def test_an_objective_trains_after_a_validation_in_inference_mode(name):
    made = objective(name)
    with torch.inference_mode():
        made(inputs(*(x.detach() for x in posterior())))
    z, mu, logvar = posterior()
    made(inputs(z, mu, logvar)).total.backward()
    assert z.grad.isfinite().all() and mu.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_functional_transforms(name):
    chosen = objective(name).double()
    x = tuple(t.detach() for t in posterior())

    def total(*posterior):
        return chosen(inputs(*posterior)).total

    gradients = torch.func.grad(total, (0, 1, 2))(*x)
    leaves = tuple(t.clone().requires_grad_() for t in x)
    expected = torch.autograd.grad(total(*leaves), leaves, allow_unused=True)
    batched = torch.func.vmap(torch.func.grad(total, (0, 1, 2)))(*(torch.stack((t, 2 * t)) for t in x))
    _, directional = torch.func.jvp(total, x, x)
    for found, of_two, exact in zip(gradients, batched, expected, strict=True):
        exact = torch.zeros_like(found) if exact is None else exact
        torch.testing.assert_close(found, exact)
        torch.testing.assert_close(of_two[0], exact)
    along = sum((g * t).sum() for g, t in zip(gradients, x, strict=True))
    torch.testing.assert_close(directional, along)
    if chosen._constant is not None:
        assert not torch._C._functorch.is_functorch_wrapped_tensor(chosen._constant[1])
