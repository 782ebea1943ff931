"""Estimates of the decomposition on codes as trained models have them: 25 nats, and channels of up to 7.7 nats.

Ten channels depend on three factors, so that they share what they know: the total correlation is half of the KL. The
exact parts come from the mixture of all posteriors, in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from betavae_fast import gaussian_kl, kl_decomposition
from betavae_fast.choices import Estimator

N, D, ROWS = 4096, 10, 512
# The KL of each channel in nats, rounded from a VAE and a model of objective capacity that were trained on dSprites.
MANY = (3.8, 3.6, 3.5, 3.5, 3.2, 2.8, 1.4, 1.4, 1.3, 0.8)
FEW = (7.7, 7.5, 6.4, 3.4, *[0.01] * 6)


class Codes(NamedTuple):
    z: Tensor
    mu: Tensor
    logvar: Tensor
    exact: Tensor  # (3, ROWS): the parts of the first rows


def codes(kl: tuple[float, ...]) -> Codes:
    """Codes of N images whose channels have these KLs, and the exact parts of the first ROWS."""
    generator = torch.Generator().manual_seed(0)
    factors = 2 * torch.rand(N, 3, generator=generator, dtype=torch.float64) - 1
    mixing = 1.5 * torch.randn(3, D, generator=generator, dtype=torch.float64)
    mu = torch.sin(factors @ mixing + torch.randn(D, generator=generator, dtype=torch.float64))
    sigma = (-torch.tensor(kl, dtype=torch.float64)).exp()  # E[μ²] + σ² = 1, so the KL is −log σ
    mu = (mu - mu.mean(0)) / mu.std(0, correction=0) * (1 - sigma.square()).sqrt()
    logvar = (2 * sigma.log()).expand_as(mu).clone()
    z = mu + sigma * torch.randn(N, D, generator=generator, dtype=torch.float64)
    own = log_density(z[:ROWS], mu[:ROWS], logvar[:ROWS]).sum(1)
    prior = log_density(z[:ROWS], torch.zeros_like(mu[:ROWS]), torch.zeros_like(mu[:ROWS])).sum(1)
    pairs = [log_density(row, mu, logvar) for row in z[:ROWS]]
    joint = torch.stack([pair.sum(1).logsumexp(0) for pair in pairs]) - math.log(N)
    marginals = torch.stack([pair.logsumexp(0).sum() for pair in pairs]) - D * math.log(N)
    return Codes(z, mu, logvar, torch.stack((own - joint, joint - marginals, marginals - prior)))


def log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() * (-logvar).exp())


def errors(found: Codes, batch: int, estimator: Estimator) -> list[float]:
    """The error of each part, averaged over the batches of the first rows, without the constants of weighted sampling."""
    constant = math.log(N) if estimator == "mws" else 0.0
    constants = torch.tensor([1.0, D - 1.0, -D], dtype=torch.float64) * constant
    estimates = torch.stack(
        [
            torch.stack(
                kl_decomposition(
                    *(x[first : first + batch] for x in found[:3]), dataset_size=N, estimator=estimator
                )
            )
            for first in range(0, max(ROWS, batch), batch)
        ]
    )
    return (estimates.mean(0) - constants - found.exact.mean(1)).tolist()


@pytest.fixture(scope="module", params=[MANY, FEW], ids=["many channels", "few channels"])
def trained(request: pytest.FixtureRequest) -> Codes:
    return codes(request.param)


def test_the_codes_are_of_that_kind(trained: Codes) -> None:
    kl = gaussian_kl(trained.mu, trained.logvar)
    assert 25 < kl.sum() < 25.5 and 3.7 < kl.max() < 7.8
    information, total_correlation, dimension_wise = trained.exact.mean(1).tolist()
    assert information == pytest.approx(math.log(N), abs=0.1)  # the code tells all images apart
    assert total_correlation > 12 and dimension_wise > 2


def test_stratified_sampling_from_64_images_moves_nats_into_the_total_correlation(trained: Codes) -> None:
    """A narrow channel of one image hardly meets those of 63 others, so that log q(z_d) is too low."""
    information, total_correlation, dimension_wise = errors(trained, 64, "mss")
    assert abs(information) < 0.1
    assert 1 < total_correlation < 12
    assert dimension_wise == pytest.approx(-total_correlation, abs=0.1)


def test_weighted_sampling_has_too_little_information(trained: Codes) -> None:
    """The information is at most log B, without the constant, and the rest is shared among the other parts."""
    for batch in (64, ROWS):
        information, total_correlation, dimension_wise = errors(trained, batch, "mws")
        assert information == pytest.approx(math.log(batch / N), abs=0.15)
        assert total_correlation + dimension_wise == pytest.approx(-information, abs=0.15)


def test_from_all_images_stratified_sampling_is_right() -> None:
    found = codes(MANY)
    parts = torch.stack(kl_decomposition(*found[:3], dataset_size=N))
    scatter = found.exact.std(1) / math.sqrt(ROWS)  # of the rows whose exact parts are known
    assert ((parts - found.exact.mean(1)).abs() < 4 * scatter + 0.01).all()
    assert scatter.max() < 0.3
