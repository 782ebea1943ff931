"""Multipliers: their updates, their bound of 0, and the solution of a known problem."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.objectives import Geco, Lagrangian, LossInputs


def test_dual_ascent_by_hand():
    objective = Lagrangian(kl_limit=2.0, lr=0.25, beta=1.0)
    seen = []
    for kl in (4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 3.0):
        objective.update(torch.tensor(50.0), torch.tensor(kl))
        seen.append(float(objective.multiplier))
    assert seen == [1.5, 1.5, 1.25, 0.75, 0.25, 0.0, 0.0, 0.25]  # held at 0, then rising again at once


def test_geco_by_hand():
    objective = Geco(reconstruction_limit=100.0, lr=0.01, decay=0.9)
    average, log_multiplier = None, 0.0
    for reconstruction in (150.0, 90.0, 80.0, 101.0):
        constraint = reconstruction - 100
        average = constraint if average is None else 0.9 * average + 0.1 * constraint
        log_multiplier += 0.01 * average
        objective.update(torch.tensor(reconstruction), torch.tensor(3.0))
        assert float(objective.average) == pytest.approx(average, rel=1e-6)
        assert float(objective.log_multiplier) == pytest.approx(log_multiplier, rel=1e-6)


@pytest.mark.parametrize("violation", [-1e30, -1e6, 1e6, 1e30])
def test_multipliers_are_finite_and_not_negative_whatever_comes(violation):
    lagrangian, geco = Lagrangian(kl_limit=1.0, lr=1.0), Geco(reconstruction_limit=0.0, lr=1.0)
    x = torch.zeros(1, 1)
    for _ in range(3):
        lagrangian.update(torch.tensor(0.0), torch.tensor(violation))
        geco.update(torch.tensor(violation), torch.tensor(0.0))
        batch = LossInputs(torch.tensor(0.0), torch.tensor([1.0]), x, x, x, torch.tensor(0))
        for objective in (lagrangian, geco):
            assert 0 <= float(objective(batch).metrics["multiplier"]) < math.inf
    assert (float(lagrangian.multiplier) == 0) == (violation < 0)


def descend(objective, x, step=0.1, steps=600):
    """Run gradient descent on a problem in one number, with reconstruction (x − 3)² and KL x²."""
    for _ in range(steps):
        kl, reconstruction = x.square().reshape(1), (x - 3).square()
        objective(LossInputs(reconstruction, kl, x, x, x, torch.tensor(0))).total.backward()
        with torch.no_grad():
            x -= step * x.grad
            x.grad = None
        objective.update(reconstruction.detach(), kl.sum().detach())
    batch = LossInputs((x - 3).square(), x.square().reshape(1), x, x, x, torch.tensor(0))
    return float(x.detach()), {name: value.item() for name, value in objective(batch).metrics.items()}


@pytest.mark.parametrize("limit, solution, price", [(4.0, 2.0, 0.5), (1.0, 1.0, 2.0), (16.0, 3.0, 0.0)])
def test_the_lagrangian_finds_the_constrained_optimum_and_the_price_of_a_nat(limit, solution, price):
    """The minimum of (x − 3)² subject to x² ≤ limit is x = √limit with β = 3 / x − 1, or x = 3 with β = 0 if that is
    allowed.
    """
    x, metrics = descend(Lagrangian(limit, lr=0.05), torch.tensor(0.5, requires_grad=True))
    assert x == pytest.approx(solution, abs=1e-3)
    assert metrics["multiplier"] == pytest.approx(price, abs=1e-3)
    assert metrics["slackness"] == pytest.approx(0, abs=1e-2)


def test_geco_finds_the_least_kl_at_a_reconstruction():
    """The minimum of x² subject to (x − 3)² ≤ 1 is x = 2 with λ = 2."""
    x, metrics = descend(Geco(1.0, lr=0.01, decay=0.5), torch.tensor(0.5, requires_grad=True))
    assert x == pytest.approx(2.0, abs=1e-2)
    assert metrics["multiplier"] == pytest.approx(2.0, abs=2e-2)
