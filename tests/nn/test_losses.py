"""The objective against the formula written out pixel by pixel in float64."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.nn import BetaVAELoss

SHAPE = (3, 2, 4, 4)


def by_hand(likelihood: str, decoded: torch.Tensor, target: torch.Tensor, scale: float) -> float:
    """−log p summed over pixels, averaged over images."""
    total = 0.0
    for a, x in zip(decoded.double().flatten().tolist(), target.double().flatten().tolist(), strict=True):
        if likelihood == "bernoulli":
            p = 1 / (1 + math.exp(-a))
            total -= x * math.log(p) + (1 - x) * math.log(1 - p)
        elif likelihood == "gaussian":
            total -= math.log(math.exp(-0.5 * ((x - a) / scale) ** 2) / (scale * math.sqrt(2 * math.pi)))
        else:
            total -= math.log(math.exp(-abs(x - a) / scale) / (2 * scale))
    return total / len(decoded)


@pytest.mark.parametrize("likelihood, scale", [("bernoulli", 1.0), ("gaussian", 0.3), ("laplace", 2.0)])
@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_loss_is_the_formula(likelihood, scale, target_dtype):
    generator = torch.Generator().manual_seed(2)
    decoded = torch.randn(SHAPE, generator=generator)
    pixels = torch.randint(0, 256, SHAPE, generator=generator, dtype=torch.uint8)
    target = {torch.bool: pixels > 127, torch.uint8: pixels}.get(target_dtype, pixels.to(target_dtype) / 255)
    kl_per_dim = torch.tensor([0.5, 0.0, 2.0])

    out = BetaVAELoss(beta=4.0, likelihood=likelihood, scale=scale)(decoded, target, kl_per_dim)

    expected = by_hand(likelihood, decoded, target / 255 if target_dtype == torch.uint8 else target, scale)
    assert out.reconstruction.item() == pytest.approx(expected, rel=1e-6)
    assert out.kl.item() == 2.5
    assert out.total.item() == pytest.approx(expected + 4.0 * 2.5, rel=1e-6)
    assert torch.equal(out.kl_per_dim, kl_per_dim)


def test_gradients_reach_the_decoder_and_the_kl_with_the_weight_beta():
    decoded = torch.zeros(SHAPE, requires_grad=True)
    kl_per_dim = torch.zeros(5, requires_grad=True)
    BetaVAELoss(beta=3.0)(decoded, torch.ones(SHAPE, dtype=torch.bool), kl_per_dim).total.backward()
    torch.testing.assert_close(decoded.grad, torch.full(SHAPE, -0.5 / SHAPE[0]))  # (sigmoid(0) − 1) / B
    assert torch.equal(kl_per_dim.grad, torch.full((5,), 3.0))


def test_half_precision_logits_are_summed_in_float32():
    decoded = torch.zeros(1, 1, 300, 300, dtype=torch.bfloat16)
    out = BetaVAELoss()(decoded, torch.ones_like(decoded, dtype=torch.bool), torch.zeros(1))
    assert out.reconstruction.dtype == torch.float32
    assert out.reconstruction.item() == pytest.approx(300 * 300 * math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"likelihood": "poisson"}, "bernoulli, gaussian, laplace; got 'poisson'"),
        ({"beta": -1.0}, "at least 0, got -1.0"),
        ({"beta": math.nan}, "got nan"),
        ({"likelihood": "gaussian", "scale": 0.0}, "positive number, got 0.0"),
        ({"scale": 0.5}, "no scale, got scale=0.5"),
    ],
)
def test_malformed_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaVAELoss(**arguments)


def test_malformed_targets_are_named():
    loss = BetaVAELoss()
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\) and \(2, 1, 8, 4\)"):
        loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 4), torch.zeros(1))
    with pytest.raises(TypeError, match="int64"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1))
