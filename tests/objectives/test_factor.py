"""FactorVAE's discriminator: its inputs, its training, and the gradients it gives."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest
import torch

from betavae_fast.objectives import FactorVAE
from tests.objectives.cases import inputs, posterior


def batch(z):
    return inputs(z, torch.zeros_like(z), torch.zeros_like(z))


def gaussian(rows, correlation):
    a, b = torch.randn(2, rows, 1)
    return torch.cat([a, correlation * a + (1 - correlation**2) ** 0.5 * b], 1)


def test_each_dim_is_permuted_on_its_own():
    torch.manual_seed(0)
    objective = FactorVAE(2, width=8)
    z = torch.arange(400.0).view(200, 2)
    permuted = objective._permuted(z)
    for dim in (0, 1):
        assert torch.equal(permuted[:, dim].sort().values, z[:, dim])
        assert (permuted[:, dim] == z[:, dim]).sum() < 10  # 1 is expected
    assert (permuted[:, 1] - permuted[:, 0] == 1).sum() < 10
    assert torch.equal(permuted, objective._permuted(z))
    before = objective._rng.clone()
    objective.update(torch.tensor(0.0), torch.tensor(0.0))
    assert not torch.equal(objective._rng, before)
    assert not torch.equal(permuted, objective._permuted(z))


def test_a_permutation_is_uniform():
    torch.manual_seed(0)
    objective, counts = FactorVAE(1, width=8), Counter()
    z = torch.arange(3.0).unsqueeze(1)
    for _ in range(1200):
        counts[tuple(objective._permuted(z).flatten().tolist())] += 1
        objective._rng[1] += 1
    assert len(counts) == 6
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 20.5  # χ² of 5 degrees, 99.9 %


def test_the_total_teaches_the_discriminator_only_to_discriminate():
    torch.manual_seed(0)
    objective = FactorVAE(3, width=8).double()
    z, mu, logvar = posterior()
    total, metrics = objective(inputs(z, mu, logvar))
    weights = list(objective.discriminator.parameters())
    expected = torch.autograd.grad(metrics["discriminator_loss"], weights, retain_graph=True)
    assert torch.autograd.grad(metrics["discriminator_loss"], z, retain_graph=True, allow_unused=True) == (
        None,
    )
    total.backward()
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=0)
        assert gradient.abs().max() > 0


def test_the_discriminators_adam_is_the_published_one():
    (group,) = FactorVAE(3, width=8).optimizer.param_groups
    assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.9))
    torch.manual_seed(0)
    objective = FactorVAE(3, width=8)
    objective(inputs(*(x.float() for x in posterior()))).total.backward()
    weights = list(objective.discriminator.parameters())
    # Adam's first step: both moments are the gradient's own, bias-corrected.
    expected = [(w - 1e-4 * w.grad / (w.grad.abs() + 1e-8)).detach() for w in weights]
    objective.update(torch.tensor(0.0), torch.tensor(0.0))
    for found, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-8)
        assert found.grad is None


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_it_measures_the_total_correlation(correlation):
    """The total correlation of two normals with correlation ρ is −½ log(1 − ρ²)."""
    torch.manual_seed(0)
    objective = FactorVAE(2, width=32, lr=3e-3)
    seen = []
    for _ in range(120):
        total, metrics = objective(batch(gaussian(512, correlation)))
        total.backward()
        objective.update(torch.tensor(0.0), torch.tensor(0.0))
        seen.append(torch.stack(list(metrics.values())).detach())
    tc, loss, accuracy = torch.stack(seen[-60:]).mean(0).tolist()
    assert tc == pytest.approx(-0.5 * log(1 - correlation**2), abs=0.1)
    if correlation:
        assert loss < 0.55 and accuracy > 0.7
    else:
        assert loss == pytest.approx(log(2), abs=0.01) and accuracy == pytest.approx(0.5, abs=0.03)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="FactorVAE needs a batch of at least 2, got 1"):
        FactorVAE(2, width=8)(batch(torch.zeros(1, 2)))
