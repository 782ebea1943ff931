"""The table of codes holds the encoder's output for every image, in the order of the data."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.evaluation.encoding import encode
from betavae_fast.nn import BetaVAE
from tests.evaluation.grid import Squares


@pytest.fixture(scope="module")
def model() -> BetaVAE:
    torch.manual_seed(0)
    return BetaVAE((1, 8, 8), latent_dim=3).eval()


@pytest.mark.parametrize("batch_size", [None, 1, 50, 128, 1000])
def test_any_batch_size_gives_the_encoders_moments(model, batch_size):
    dataset = Squares()
    seen = []
    encoding = encode(model, dataset, batch_size=batch_size, on_images=seen.append)
    with torch.no_grad():
        mu, logvar = model.encode(dataset.gather(torch.arange(128)))
    torch.testing.assert_close(encoding.mu, mu)
    torch.testing.assert_close(encoding.logvar, logvar)
    assert sum(seen) == 128
    assert not encoding.mu.requires_grad


def test_chosen_images_come_in_the_order_asked_for(model):
    chosen = torch.tensor([5, 127, 5, 0])
    whole = encode(model, Squares())
    torch.testing.assert_close(encode(model, Squares(), chosen).mu, whole.mu[chosen])


def test_sampled_codes_are_draws_of_the_posterior(model):
    encoding = encode(model, Squares())
    draws = torch.from_numpy(encoding.sampled_codes(3))
    standard = (draws - encoding.mu) / (0.5 * encoding.logvar).exp()
    assert abs(float(standard.mean())) < 0.2 and abs(float(standard.std()) - 1) < 0.15
    assert (encoding.sampled_codes(3) == encoding.sampled_codes(3)).all()
    assert (encoding.sampled_codes(3) != encoding.sampled_codes(4)).any()


def test_a_batch_of_none_is_refused(model):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode(model, Squares(), batch_size=0)
