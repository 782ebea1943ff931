"""The numbers of the final table, compared with a plain computation."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.data import ByteImages
from betavae_fast.evaluation.summary import choose_images, summarise
from betavae_fast.files import read_json, write_json
from betavae_fast.functional import gaussian_kl
from betavae_fast.nn import BetaVAE, BetaVAELoss

N = 300  # larger than a batch of the evaluation, and not a multiple of it


@pytest.fixture(scope="module")
def dataset() -> ByteImages:
    pixels = torch.randint(
        0, 256, (N, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels[..., 0] = 0  # pixels that are never on and pixels that are always on
    pixels[..., 1] = 255
    return ByteImages("tiny", pixels, (1, 8, 8))


def make_model(likelihood: str) -> BetaVAE:
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=4, likelihood=likelihood).eval()
    with torch.no_grad():
        # Four channels of known kind: unused, only spread of the means, only variance, barely used.
        last = model.encoder.moments
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.1, 0.0, 0.0, -3.0, 0.0]))
    return model


def test_channels_are_measured_sorted_and_judged(dataset):
    summary = summarise(make_model("bernoulli"), dataset)
    variance_only = 0.5 * (math.exp(-3) - 1 + 3)
    assert [channel.index for channel in summary.channels] == [1, 2, 3, 0]
    assert [channel.kl for channel in summary.channels] == pytest.approx([2.0, variance_only, 0.005, 0.0])
    assert [channel.mean_dispersion for channel in summary.channels] == pytest.approx([2.0, 0.0, 0.005, 0.0])
    assert [channel.variance for channel in summary.channels] == pytest.approx([0.0, variance_only, 0.0, 0.0])
    assert [channel.active for channel in summary.channels] == [True, True, False, False]
    assert summary.active_channels == 2
    assert summary.kl == pytest.approx(2.0 + variance_only + 0.005)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "laplace"])
def test_losses_are_means_over_all_images(dataset, likelihood):
    model = make_model(likelihood)
    summary = summarise(model, dataset)
    images = dataset.gather(torch.arange(N)).double() / 255
    with torch.no_grad():
        decoded = model(images.float()).decoded.double()

    def nll(expected: torch.Tensor) -> float:
        if likelihood == "bernoulli":
            expected = expected.clamp(1e-6, 1 - 1e-6)
            each = -(images * expected.log() + (1 - images) * (1 - expected).log())
        elif likelihood == "gaussian":
            each = 0.5 * (images - expected) ** 2 + 0.5 * math.log(2 * math.pi)
        else:
            each = (images - expected).abs() + math.log(2)
        return each.sum().item() / N

    assert summary.images == N
    assert summary.reconstruction == pytest.approx(nll(model.pixels(decoded)), rel=1e-5)
    assert summary.mean_image_reconstruction == pytest.approx(nll(images.mean(0)), rel=1e-4)
    assert summary.least_reconstruction == pytest.approx(nll(images), rel=1e-4)
    assert summary.least_reconstruction < summary.mean_image_reconstruction
    mu, logvar = model.encode(images.float())
    assert summary.kl == pytest.approx(gaussian_kl(mu, logvar, reduction="batchmean").item(), rel=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_losses_are_those_of_the_models_scale(dataset, likelihood):
    model = make_model(likelihood)
    model.scale = 0.1
    images = dataset.gather(choose_images(N, N))
    loss = BetaVAELoss(beta=1.0, likelihood=likelihood, scale=0.1)
    summary = summarise(model, dataset)
    with torch.no_grad():
        out = model(images)
        assert summary.reconstruction == pytest.approx(
            loss(out.decoded, images, out.kl).reconstruction.item(), rel=1e-5
        )
    assert summary.explained == pytest.approx(
        (summary.mean_image_reconstruction - summary.reconstruction)
        / (summary.mean_image_reconstruction - summary.least_reconstruction)
    )


@pytest.mark.parametrize("logvar_range", [None, (-0.5, 2.0)])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_sampled_loss_is_that_of_a_training_step_over_all_images(dataset, likelihood, logvar_range):
    """The noise is one sequence over all images, whatever the size of a batch. A model may clamp its variances."""
    model = make_model(likelihood)
    model.latent.logvar_range = logvar_range
    with torch.no_grad():
        model.encoder.moments.bias[4:] = torch.tensor([0.0, 1.0, -3.0, -1.0])  # wide posteriors
    summary = summarise(model, dataset)
    images = dataset.gather(choose_images(N, N))
    with torch.no_grad():
        trained = model.train()(images, seed=0)
        loss = BetaVAELoss(beta=1.0, likelihood=likelihood)(trained.decoded, images, trained.kl)
    assert summary.sampled_reconstruction == pytest.approx(loss.reconstruction.item(), rel=1e-5)
    assert summary.negative_elbo == pytest.approx(loss.total.item(), rel=1e-5)
    assert summary.kl == pytest.approx(loss.kl.sum().item(), rel=1e-5)
    assert (
        abs(summary.sampled_reconstruction / summary.reconstruction - 1) > 1e-4
    )  # not the loss at the mean code
    assert summarise(model.eval(), dataset) == summary


def test_a_clamped_variance_is_clamped_in_the_sample(dataset):
    """The lowest variance that a model allows is what it samples with, in training and here."""
    model = make_model("bernoulli")
    model.latent.logvar_range = (-60.0, -50.0)  # hardly any noise
    summary = summarise(model, dataset)
    assert summary.sampled_reconstruction == pytest.approx(summary.reconstruction, rel=1e-6)


def test_a_large_data_set_is_sampled_the_same_way_every_time(dataset):
    first, again = (choose_images(10_000, 100) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(first.tolist())) == 100
    assert choose_images(5, 100).sort().values.tolist() == [0, 1, 2, 3, 4]
    assert summarise(make_model("bernoulli"), dataset, max_images=7).images == 7


def test_the_written_summary_is_the_table(dataset, tmp_path):
    summary = summarise(make_model("bernoulli"), dataset)
    write_json(tmp_path / "summary.json", summary)
    written = read_json(tmp_path / "summary.json")
    for loss in ("reconstruction", "sampled_reconstruction", "negative_elbo"):
        assert written[loss] == getattr(summary, loss)
    assert [channel["index"] for channel in written["channels"]] == [1, 2, 3, 0]
