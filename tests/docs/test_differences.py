"""docs/differences.md, line by line: the results of other libraries, beside those of this one.

Libraries that are installed are called. For the others, the formula is stated in plain torch with its source: the
repository, the commit that was read, the file and the function.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from betavae_fast import (
    BetaVAE,
    BetaVAELoss,
    bernoulli_nll,
    gaussian_kl,
    gaussian_nll,
    kl_decomposition,
    reparameterize,
)
from betavae_fast.evaluation.metrics import factor_vae_score, irs_score, mig_score
from betavae_fast.objectives import DIPVAEI, DIPVAEII, BetaTC, Capacity, FactorVAE, LossInputs
from betavae_fast.training.config import TrainConfig
from tests.backends import ROOT

B, D, PIXELS = 16, 4, 3 * 8 * 8
PAGE = ROOT / "docs" / "differences.md"


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def posterior() -> tuple[Tensor, Tensor, Tensor]:
    """z, μ, log σ² of B images."""
    mu, logvar = draw(B, D), 0.5 * draw(B, D, seed=1) - 1
    return reparameterize(mu, logvar, seed=2), mu, logvar


def images() -> tuple[Tensor, Tensor]:
    """A decoder's output and its target, (B, 3, 8, 8)."""
    return draw(B, 3, 8, 8, seed=3), draw(B, 3, 8, 8, seed=4).sigmoid()


def inputs(step: int = 0, reconstruction: float = 0.0) -> LossInputs:
    z, mu, logvar = posterior()
    kl = gaussian_kl(mu, logvar)
    return LossInputs(torch.tensor(reconstruction, dtype=z.dtype), kl, z, mu, logvar, torch.tensor(step))


def plain_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """The KL as it is usually written: −½ (1 + v − μ² − eᵛ), summed over the latent dims."""
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)


def log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log q(z_i | x_j) of every pair, by dim: (B, B, D)."""
    z, mu, logvar = z[:, None], mu[None], logvar[None]
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() * (-logvar).exp())


# pythae


@pytest.fixture
def pythae() -> Any:
    pytest.importorskip("pythae", reason="pythae is not installed")
    import pythae.models as models

    return models


def pythae_model(models: Any, kind: str, **config: Any) -> Any:
    torch.manual_seed(0)
    return getattr(models, kind)(
        getattr(models, kind + "Config")(input_dim=(3, 8, 8), latent_dim=D, **config)
    )


def test_pythae_cross_entropy_takes_probabilities_and_ours_logits(pythae: Any) -> None:
    """The loss of a certain pixel stops at 100 nats, and a sigmoid that is 1 in float32 has no gradient."""
    z, mu, logvar = (x.float() for x in posterior())
    model = pythae_model(pythae, "BetaVAE", reconstruction_loss="bce")
    logits = torch.full((B, 1), 200.0, requires_grad=True)
    black = torch.zeros(B, 1)
    theirs = model.loss_function(logits.sigmoid(), black, mu, logvar, z)[1]
    ours = bernoulli_nll(logits, black)
    assert theirs == 100 and ours == 200
    assert not torch.autograd.grad(theirs, logits)[0].any()
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], torch.full((B, 1), 1 / B))


def test_pythae_samples_in_evaluation_and_ours_takes_the_mean(pythae: Any) -> None:
    _, x = images()
    theirs = pythae_model(pythae, "BetaVAE").eval()
    assert not torch.equal(theirs({"data": x.float()}).z, theirs({"data": x.float()}).z)
    torch.manual_seed(0)
    ours = BetaVAE((3, 8, 8), D, "mlp").eval()
    assert torch.equal(ours(x).z, ours(x).mu)


def test_pythae_capacity_is_a_mean_of_distances(pythae: Any) -> None:
    """Theirs is mean |KL_i − C|, ours |mean KL − C|. An image above C and one below cancel in ours."""
    decoded, x = images()
    z, mu, logvar = posterior()
    kl = gaussian_kl(mu, logvar, reduction="sample")
    middle = float(kl.mean())
    model = pythae_model(pythae, "DisentangledBetaVAE", C=middle, beta=10.0, warmup_epoch=0)
    loss, reconstruction, _ = model.loss_function(decoded, x, mu, logvar, z, epoch=1)
    torch.testing.assert_close(loss - reconstruction, 10 * (kl - middle).abs().mean())
    ours = Capacity(middle, steps=0, gamma=10.0)(inputs()).total
    assert loss - reconstruction > 1 and ours < 1e-9


def test_pythae_capacity_grows_by_epochs(pythae: Any) -> None:
    """Theirs is C min(epoch / (warmup + 1), 1), which grows in stairs, and C w / (w + 1) if no epoch is given. Ours grows
    with each update.
    """
    decoded, x = images()
    z, mu, logvar = posterior()
    model = pythae_model(pythae, "DisentangledBetaVAE", C=50.0, beta=1.0, warmup_epoch=4)
    kl = plain_kl(mu, logvar)
    for epoch in (0, 1, 5, 9):
        loss, reconstruction, _ = model.loss_function(decoded, x, mu, logvar, z, epoch=epoch)
        expected = (kl - 50 * min(epoch / 5, 1)).abs().mean()
        torch.testing.assert_close(loss - reconstruction, expected)
    ours = Capacity(50.0, steps=1000)
    assert [float(ours(inputs(step)).metrics["capacity"]) for step in (0, 1, 500, 2000)] == [0, 0.05, 25, 50]


def test_pythae_defaults(pythae: Any) -> None:
    from pythae.models import BetaTCVAEConfig, BetaVAEConfig, DisentangledBetaVAEConfig, FactorVAEConfig

    assert BetaVAEConfig().beta == 1 and BetaVAELoss().beta == 4
    theirs, ours = BetaTCVAEConfig(), BetaTC(dataset_size=10)
    assert (theirs.beta, theirs.use_mss) == (1, True) and (ours.beta, ours.estimator) == (6, "mws")
    theirs, ours = DisentangledBetaVAEConfig(), Capacity()
    assert (theirs.beta, theirs.C, theirs.warmup_epoch) == (10, 50, 25)
    assert (ours.gamma, ours.capacity, ours.steps) == (1000, 25, 100_000)
    assert FactorVAEConfig().gamma == 2 and FactorVAE(D).gamma == 35


def pythae_parts(models: Any, use_mss: bool, size: int) -> tuple[Tensor, ...]:
    """The mutual information, the total correlation and the dimension-wise KL of pythae's β-TCVAE."""
    decoded, x = images()
    z, mu, logvar = posterior()
    parts = []
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        alpha, beta, gamma = map(float, weights)
        model = pythae_model(models, "BetaTCVAE", use_mss=use_mss, alpha=alpha, beta=beta, gamma=gamma)
        parts.append(model.loss_function(decoded, x, mu, logvar, z, size)[2])
    return tuple(parts)


def test_pythae_weighted_sampling_is_ours(pythae: Any) -> None:
    ours = kl_decomposition(*posterior(), dataset_size=1000, estimator="mws")
    for found, expected in zip(pythae_parts(pythae, False, 1000), ours, strict=True):
        torch.testing.assert_close(found.squeeze(), expected, rtol=1e-5, atol=1e-5)  # π is float32 there


def test_pythae_stratified_weights_are_in_the_wrong_columns(pythae: Any) -> None:
    """1/N is the weight of the image itself, on the diagonal. Theirs is in the first column, and (N − M)/(NM) in the
    second.
    """
    batch, size = 4, 1000
    weights = pythae_model(pythae, "BetaTCVAE")._log_importance_weight_matrix(batch, size).exp()
    rows = batch - 1
    torch.testing.assert_close(
        weights[:, 0], torch.tensor([1 / size] * 2 + [(size - rows) / (size * rows), 1 / size])
    )
    torch.testing.assert_close(weights[:, 1], torch.full((batch,), (size - rows) / (size * rows)))
    assert weights[1, 1] != pytest.approx(1 / size)
    theirs, ours = pythae_parts(pythae, True, 1000), kl_decomposition(*posterior(), dataset_size=1000)
    assert abs(float(theirs[0]) - float(ours[0])) > 0.1 and abs(float(theirs[1]) - float(ours[1])) > 0.1


def test_pythae_takes_the_batch_for_the_data_set_unless_told(pythae: Any) -> None:
    _, x = images()
    model = pythae_model(pythae, "BetaTCVAE", beta=2.0)
    losses = []
    for told in ({}, {"dataset_size": B}, {"dataset_size": 1000}):
        torch.manual_seed(1)
        losses.append(model({"data": x.float()}, **told).reg_loss)
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(TypeError, match="dataset_size"):
        kl_decomposition(*posterior())


def test_pythae_factor_vae_learns_from_half_of_each_batch(pythae: Any) -> None:
    _, x = images()
    model = pythae_model(pythae, "FactorVAE")
    assert len(model({"data": x.float()}).z) == B // 2
    given = inputs()
    given.z.requires_grad_()
    torch.manual_seed(0)
    FactorVAE(D, width=8).double()(given).total.backward()
    assert given.z.grad.abs().sum(1).gt(0).all()


# disentanglement_lib: google-research/disentanglement_lib at 86a644d, methods/unsupervised/vae.py, shared/losses.py


def test_disentanglement_lib_starts_from_glorot_s_weights() -> None:
    """architectures.py names no initializer, so its layers have tf.layers' default: Glorot's uniform weights, no bias.
    TensorFlow's fans are channels × kernel."""
    torch.manual_seed(0)
    plain = BetaVAE((1, 64, 64), architecture="locatello")
    recipe = TrainConfig.from_recipe("locatello-2019")
    glorot = BetaVAE((1, 64, 64), architecture="locatello", initialization=recipe.initialization)
    for name in ("encoder.fc1", "encoder.conv1", "encoder.conv2", "decoder.deconv3"):
        layer, theirs = plain.get_submodule(name), glorot.get_submodule(name)
        fan_in, fan_out = layer.weight[0].numel(), len(layer.weight) * layer.weight[0][0].numel()
        bound, their_bound = fan_in**-0.5, math.sqrt(6 / (fan_in + fan_out))
        for found in (layer.weight, layer.bias):
            assert 0.9 * bound < found.abs().max() <= bound  # the largest of many in ±bound
        assert 0.95 * their_bound < theirs.weight.abs().max() <= their_bound
        assert not theirs.bias.any()
        assert abs(math.log(their_bound / bound)) > 0.4


def test_disentanglement_lib_learns_ten_times_as_slowly() -> None:
    """shared.gin: vae/AdamOptimizer.learning_rate = 0.0001."""
    assert TrainConfig().lr == 1e-3 and TrainConfig.from_recipe("locatello-2019").lr == 1e-4


def test_disentanglement_lib_kl_is_ours_but_cancels() -> None:
    """vae.py, compute_gaussian_kl computes the mean over the batch of ½ Σ (μ² + eᵛ − v − 1)."""

    def theirs(mu: Tensor, v: Tensor) -> Tensor:
        return (0.5 * (mu.square() + v.exp() - v - 1).sum(1)).mean()

    _, mu, logvar = posterior()
    torch.testing.assert_close(theirs(mu, logvar), gaussian_kl(mu, logvar, reduction="batchmean"))
    v = torch.linspace(-1e-4, 1e-4, 101)[:, None]
    zero = torch.zeros_like(v)
    exact = gaussian_kl(zero.double(), v.double(), reduction="batchmean")
    assert abs(float(theirs(zero, v) / exact) - 1) > 0.1
    torch.testing.assert_close(gaussian_kl(zero, v, reduction="batchmean").double(), exact, rtol=1e-6, atol=0)


def test_disentanglement_lib_l2_has_no_half_and_a_sigmoid() -> None:
    """losses.py, l2_loss is Σ (t − sigmoid(x))²: our loss of the sigmoid with scale 1/√2, without its constant."""
    decoded, x = images()
    theirs = (x - decoded.sigmoid()).square().flatten(1).sum(1).mean()
    scale = math.sqrt(0.5)
    constant = PIXELS * (math.log(scale) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(gaussian_nll(decoded.sigmoid(), x, scale=scale) - constant, theirs)
    torch.testing.assert_close(
        gaussian_nll(decoded.sigmoid(), x) - PIXELS * 0.5 * math.log(2 * math.pi), theirs / 2
    )


def test_disentanglement_lib_bernoulli_of_logits_is_ours_and_of_tanh_is_bounded() -> None:
    """losses.py, bernoulli_loss: "logits" is the loss here; "tanh" clips probabilities to [1e-6, 1 − 1e-6]."""
    decoded, x = images()
    logits_loss = F.binary_cross_entropy_with_logits(decoded, x, reduction="none").flatten(1).sum(1).mean()
    torch.testing.assert_close(bernoulli_nll(decoded, x), logits_loss)
    p = (torch.full((1, 1), 50.0, dtype=torch.float64).tanh() / 2 + 0.5).clamp(1e-6, 1 - 1e-6)
    assert -(1 - p).log() == pytest.approx(-math.log(1e-6))  # 13.8 nats at most
    assert bernoulli_nll(torch.full((1, 1), 100.0), torch.zeros(1, 1)) == 100


def test_disentanglement_lib_may_subtract_the_images_entropy() -> None:
    """losses.py, bernoulli_loss, subtract_true_image_entropy subtracts a constant of grey images; ours never does."""
    _, x = images()
    entropy = -(x * x.log() + (1 - x) * (1 - x).log()).flatten(1).sum(1).mean()
    perfect = torch.logit(x)
    torch.testing.assert_close(bernoulli_nll(perfect, x), entropy)  # the smallest value of our loss
    assert entropy > 50


def test_disentanglement_lib_capacity_is_ours() -> None:
    """vae.py, AnnealedVAE has γ |mean KL − C| with C = min(C_max, C_max step / threshold), where step is the updates
    done.
    """
    for step in (0, 10, 2000):
        given = inputs(step)
        theirs = 7.0 * (given.kl - min(25.0, 25.0 * step / 1000)).abs()
        torch.testing.assert_close(Capacity(25.0, steps=1000, gamma=7.0)(given).total, theirs)


def test_disentanglement_lib_total_correlation_lacks_a_constant() -> None:
    """vae.py, total_correlation has sums instead of means of densities. Ours, mws, is larger by (D − 1) log(N B) and has
    the same gradient.
    """
    z, mu, logvar = (x.requires_grad_() for x in posterior())
    log_q = log_density(z, mu, logvar)
    theirs = (log_q.sum(2).logsumexp(1) - log_q.logsumexp(1).sum(1)).mean()
    ours = kl_decomposition(z, mu, logvar, dataset_size=1000, estimator="mws").total_correlation
    torch.testing.assert_close(ours, theirs + (D - 1) * math.log(1000 * B))
    for pair in zip(*(torch.autograd.grad(tc, (z, mu, logvar)) for tc in (ours, theirs)), strict=True):
        torch.testing.assert_close(*pair)


def test_disentanglement_lib_adds_the_closed_kl_to_a_total_correlation() -> None:
    """vae.py, BetaTCVAE has the KL in closed form + (β − 1) TC; ours sums the sampled parts, log q(z|x) − log p(z)."""
    given = inputs()
    z, mu, logvar = given.z, given.mu, given.logvar
    tc = kl_decomposition(z, mu, logvar, dataset_size=1000, estimator="mws").total_correlation
    theirs = given.kl + 5 * tc
    ours = BetaTC(1000, beta=6.0)(given).total
    sampled = (Normal(mu, (0.5 * logvar).exp()).log_prob(z) - Normal(0, 1).log_prob(z)).sum(1).mean()
    torch.testing.assert_close(ours, sampled + 5 * tc)
    torch.testing.assert_close(theirs - ours, given.kl - sampled)
    assert abs(float(theirs - ours)) > 0.01


def test_disentanglement_lib_factor_vae_shows_the_discriminator_a_batch_twice() -> None:
    """vae.py, FactorVAE: the discriminator tells the batch from the batch permuted; ours tells the first half from the
    second half permuted.
    """
    given = inputs()
    torch.manual_seed(0)
    objective = FactorVAE(D, width=16).double()
    ours = objective(given).metrics["discriminator_loss"]
    logits = objective.discriminator
    permuted = given.z.gather(0, draw(B, D, seed=9).argsort(0))
    theirs = 0.5 * (F.cross_entropy(logits(given.z), torch.zeros(B).long()))
    theirs = theirs + 0.5 * F.cross_entropy(logits(permuted), torch.ones(B).long())
    shuffled = objective._permuted(given.z[B // 2 :])
    halves = 0.5 * F.cross_entropy(logits(given.z[: B // 2]), torch.zeros(B // 2).long())
    halves = halves + 0.5 * F.cross_entropy(logits(shuffled), torch.ones(B // 2).long())
    torch.testing.assert_close(ours, halves)
    assert not torch.isclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind, factor", [(DIPVAEI, 10.0), (DIPVAEII, 1.0)])
def test_disentanglement_lib_dip_weights_are_a_factor(kind: Any, factor: float) -> None:
    """vae.py, DIPVAE has λ_d = lambda_d_factor · λ_od; the rest is the same."""
    given = inputs()
    mu = given.mu
    covariance = (mu[:, :, None] * mu[:, None]).mean(0) - mu.mean(0)[:, None] * mu.mean(0)
    if kind is DIPVAEII:
        covariance = covariance + given.logvar.exp().mean(0).diag()
    variances = covariance.diag()
    off = (covariance - variances.diag()).square().sum()
    theirs = given.kl + 5.0 * off + factor * 5.0 * (variances - 1).square().sum()
    torch.testing.assert_close(kind(off_diagonal=5.0, diagonal=factor * 5.0)(given).total, theirs)


def test_disentanglement_lib_scores_a_constant_factor_as_nan() -> None:
    """evaluation/metrics/mig.py divides by the entropy of each factor, which is 0 for a constant factor; ours leaves such
    a factor out.
    """
    rng = np.random.default_rng(0)
    factors = np.argwhere(np.ones((4, 5, 1)))
    score = mig_score(factors[:, :2].astype(float), factors, rng)
    assert score.entropies.shape == (2,) and score.score == pytest.approx(1, abs=0.01)
    with np.errstate(invalid="ignore"):
        assert np.isnan(np.mean(np.append(score.gaps, np.divide(0.0, 0.0))))


def test_disentanglement_lib_may_keep_dead_latents_in_the_factor_vae_score() -> None:
    """evaluation/metrics/factor_vae.py, _prune_dims has threshold 0 by default (0.05 in the study), which a variance of 0
    passes. Ours has 0.05, and a variance of 0 never passes.
    """
    variance = np.array([0.0, 1.0])
    assert (np.sqrt(variance) >= 0.0).all()
    with np.errstate(invalid="ignore"):
        assert np.argmin(np.array([0.0, 0.5]) / variance) == 0  # 0/0 is NaN, and NaN counts as the smallest
    factors = np.argwhere(np.ones((4, 5)))
    codes = np.column_stack([np.zeros(20), factors])
    score = factor_vae_score(
        codes, factors, np.random.default_rng(0), num_train=200, num_test=100, threshold=0.0
    )
    assert score.kept.tolist() == [1, 2] and score.score == 1


def test_disentanglement_lib_counts_active_latents_by_adding_codes() -> None:
    """evaluation/metrics/irs.py: num_active_dims is the sum of the remaining codes; ours are their indices."""
    factors = np.argwhere(np.ones((4, 5)))
    codes = np.column_stack([factors, np.zeros(20)]).astype(float)
    theirs = np.sum(codes.T[codes.T.var(axis=1) > 0])
    assert theirs == codes.sum() == 70
    assert irs_score(codes, factors, np.random.default_rng(0)).alive.tolist() == [0, 1]


# PyTorch-VAE: AntixK/PyTorch-VAE at a6896b9, models/*.py, experiment.py, configs/*.yaml


def test_pytorch_vae_beta_is_hidden_in_the_scale_of_the_reconstruction() -> None:
    """beta_vae.py, loss type H is the mean over pixels of (x − t)² + β M_N KL with M_N = 0.00025. P/2 times it is our
    loss without the constant, with β M_N P/2 for β. The β = 10 of configs/bhvae.yaml at 3 × 64 × 64 pixels is a β of
    15.36.
    """
    decoded, x = images()
    given = inputs()
    theirs = F.mse_loss(decoded, x) + 10.0 * 0.00025 * given.kl
    beta = 10.0 * 0.00025 * PIXELS / 2
    ours = gaussian_nll(decoded, x) + beta * given.kl
    torch.testing.assert_close(ours - PIXELS * 0.5 * math.log(2 * math.pi), PIXELS / 2 * theirs)
    assert math.isclose(10.0 * 0.00025 * 3 * 64 * 64 / 2, 15.36)


def test_pytorch_vae_validates_with_another_weight() -> None:
    """experiment.py: M_N is kld_weight in training_step and 1.0 in validation_step, so there are two objectives."""
    decoded, x = images()
    kl = inputs().kl
    training, validation = (F.mse_loss(decoded, x) + 10.0 * m_n * kl for m_n in (0.00025, 1.0))
    torch.testing.assert_close(validation - training, 10.0 * 0.99975 * kl)
    loss = BetaVAELoss(10.0, "gaussian")
    assert (
        loss.train()(decoded, x, inputs().kl_per_dim).total
        == loss.eval()(decoded, x, inputs().kl_per_dim).total
    )


def test_pytorch_vae_decoders_end_in_a_tanh() -> None:
    """beta_vae.py, final_layer ends in a tanh. Images are in [0, 1]: white is out of reach, black in the middle."""
    out = torch.linspace(-8, 8, 101, dtype=torch.float64).requires_grad_()
    assert -1 < out.tanh().min() < -0.99 and 0.99 < out.tanh().max() < 1
    white = torch.ones_like(out)
    theirs = torch.autograd.grad((out.tanh() - white).square().sum(), out)[0]
    ours = torch.autograd.grad(gaussian_nll(out, white, reduction="sum"), out)[0]
    assert theirs[0].abs() < 1e-5 < 8 < ours[0].abs()  # the gradient of a black pixel that should be white


def test_pytorch_vae_capacity_counts_one_ahead_and_validation_too() -> None:
    """beta_vae.py, loss type B has C = C_max / steps · num_iter, and each call first adds 1 to num_iter."""
    calls = ["train", "train", "validate", "train"]
    theirs = [25.0 / 1000 * (i + 1) for i, call in enumerate(calls) if call == "train"]
    ours = [float(Capacity(25.0, steps=1000)(inputs(step)).metrics["capacity"]) for step in range(3)]
    assert theirs == pytest.approx([0.025, 0.05, 0.1]) and ours == pytest.approx([0.0, 0.025, 0.05])


def test_pytorch_vae_tc_weights_are_misplaced_and_counted_once_a_dim() -> None:
    """betatc_vae.py has pythae's weights except in one corner. It adds them to each dim before the sum over dims, so that
    the joint has them to the power D, and N = B / M_N whatever the data set.
    """
    z, mu, logvar = posterior()
    size, rows = 1000, B - 1
    weights = torch.full((B, B), 1 / rows, dtype=torch.float64)
    weights[:, 0], weights[:, 1] = 1 / size, (size - rows) / (size * rows)
    weights[B - 2, 0] = (size - rows) / (size * rows)
    weighted = log_density(z, mu, logvar) + weights.log()[:, :, None]
    joint = weighted.sum(2).logsumexp(1)
    product = weighted.logsumexp(1).sum(1)
    once = (log_density(z, mu, logvar).sum(2) + weights.log()).logsumexp(1)
    to_the_power_d = (log_density(z, mu, logvar).sum(2) + D * weights.log()).logsumexp(1)
    torch.testing.assert_close(joint, to_the_power_d)
    ours = kl_decomposition(z, mu, logvar, dataset_size=size)
    assert (once - joint).mean() > 1  # nats
    assert abs(float((joint - product).mean() - ours.total_correlation)) > 1
    assert 64 / 0.00025 == 256_000


def test_pytorch_vae_tc_reconstruction_has_no_half() -> None:
    """betatc_vae.py has Σ (x − t)² / B, so its weights α, β, γ count half as much as ours."""
    decoded, x = images()
    theirs = F.mse_loss(decoded, x, reduction="sum") / B
    torch.testing.assert_close(2 * (gaussian_nll(decoded, x) - PIXELS * 0.5 * math.log(2 * math.pi)), theirs)


def test_pytorch_vae_tc_warms_up_the_dimension_wise_kl() -> None:
    """betatc_vae.py multiplies γ by min(num_iter / anneal_steps, 1) in training, otherwise by 1; its configuration has
    10,000.
    """
    given = inputs()
    theirs = [7.0 * min(num_iter / 10_000, 1) for num_iter in (1, 5000, 20_000)]
    assert theirs == pytest.approx([0.0007, 3.5, 7])
    parts = kl_decomposition(given.z, given.mu, given.logvar, dataset_size=1000, estimator="mws")
    for step in (0, 4999, 19_999):
        now = given._replace(step=torch.tensor(step))
        ours = BetaTC(1000, alpha=0, beta=0, gamma=7.0)(now).total
        torch.testing.assert_close(ours, 7 * parts.dimension_wise_kl)


def assert_dip_pulls(given: LossInputs, covariance: Tensor) -> None:
    """DIP-VAE-II pulls this covariance towards the identity."""
    logged = DIPVAEII()(given).metrics
    off = covariance - covariance.diag().diag()
    torch.testing.assert_close(logged["off_diagonal"], off.square().sum())
    torch.testing.assert_close(logged["diagonal"], (covariance.diag() - 1).square().sum())


def test_pytorch_vae_dip_centres_each_image() -> None:
    """dip_vae.py takes μ minus its mean over *dims*, without 1/B, and adds the mean of the diagonal of exp(2 log σ²)
    everywhere.
    """
    given = inputs()
    centred = given.mu - given.mu.mean(1, keepdim=True)
    theirs = centred.T @ centred + (2 * given.logvar).exp().diagonal().mean()
    mu = given.mu - given.mu.mean(0)
    ours = mu.T @ mu / B + given.logvar.exp().mean(0).diag()
    assert_dip_pulls(given, ours)
    assert (theirs - ours).abs().max() > 1
    assert_dip_pulls(given._replace(mu=given.mu + 3), ours)
    moved = given.mu + torch.tensor([3.0, 0.0, 0.0, 0.0])
    moved_centred = moved - moved.mean(1, keepdim=True)
    # A covariance would not move.
    assert (moved_centred.T @ moved_centred - centred.T @ centred).abs().max() > 10


def test_pytorch_vae_factor_vae_permutes_within_an_image() -> None:
    """fvae.py, permute_latent permutes the latents of each image among themselves; ours permutes each latent over the
    batch.
    """
    z = draw(B, D)
    theirs = torch.stack([row[torch.randperm(D)] for row in z])
    assert torch.equal(theirs.sort(1).values, z.sort(1).values)
    torch.manual_seed(0)
    ours = FactorVAE(D, width=8).double()._permuted(z)
    assert torch.equal(ours.sort(0).values, z.sort(0).values) and not torch.equal(
        ours.sort(1).values, z.sort(1).values
    )


def test_pytorch_vae_logs_minus_the_kl() -> None:
    """vanilla_vae.py, mssim_vae.py, dip_vae.py, fvae.py and others return −KL as 'KLD'; beta_vae.py and betatc_vae.py
    return KL.
    """
    _, mu, logvar = posterior()
    logged = -plain_kl(mu, logvar).mean()
    ours = BetaVAELoss()(*images(), inputs().kl_per_dim).kl
    assert logged < 0 < ours and float(ours + logged) == pytest.approx(0)


def test_pytorch_vae_mssim_raises_the_last_scale_to_the_fourth() -> None:
    """mssim_vae.py, MSSIM.forward is Π over 4 scales of (contrast^w · the last scale's similarity^w₅); Wang et al. 2003
    have the last factor once. The loss, which adds 0.00025 KL, is no negative log-likelihood; there is no such loss here.
    """
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    contrast, similarity = torch.full((5,), 0.9), torch.full((5,), 0.5)
    theirs = 1 - torch.prod((contrast**weights)[:-1] * (similarity**weights)[-1])
    published = 1 - torch.prod((contrast**weights)[:-1]) * (similarity**weights)[-1]
    ratio = (1 - theirs) / (1 - published)
    torch.testing.assert_close(ratio, (similarity[-1] ** weights[-1]) ** 3)
    assert torch.isnan(torch.tensor(-0.1) ** weights[0])  # a negative similarity
    with pytest.raises(ValueError, match="likelihood must be one of"):
        BetaVAELoss(likelihood="mssim")  # type: ignore[arg-type]


# disent: nmichlo/disent at 8f061a8, disent/frameworks/vae/*.py, disent/nn/loss/reduction.py


def test_disent_takes_means_over_pixels_and_dims() -> None:
    """loss_reduction is "mean" by default: mean (x − t)² over pixels + β mean KL over dims. Its β = 0.003 is a β of 2.05
    at 3 × 64 × 64 pixels and 9 dims (4.1 beside a loss without the ½).
    """
    decoded, x = images()
    given = inputs()
    theirs = F.mse_loss(decoded, x) + 0.003 * gaussian_kl(given.mu, given.logvar, reduction="none").mean()
    beta = 0.003 * PIXELS / (2 * D)
    ours = gaussian_nll(decoded, x) - PIXELS * 0.5 * math.log(2 * math.pi) + beta * given.kl
    torch.testing.assert_close(ours, PIXELS / 2 * theirs)
    assert math.isclose(0.003 * 3 * 64 * 64 / (2 * 9), 2.05, abs_tol=0.01)


def test_disent_weighs_the_kl_of_a_beta_tcvae_by_beta_again() -> None:
    """_unsupervised__betatcvae.py has β KL, from its parent, + (β − 1) TC. The published loss and ours are KL + (β − 1)
    TC.
    """
    given = inputs()
    tc = kl_decomposition(
        given.z, given.mu, given.logvar, dataset_size=1000, estimator="mws"
    ).total_correlation
    theirs, published = 6 * given.kl + 5 * tc, given.kl + 5 * tc
    torch.testing.assert_close(theirs - published, 5 * given.kl)
    assert abs(float(BetaTC(1000, beta=6.0)(given).total - published)) < 1 < theirs - published


def test_disent_dip_adds_one_number_to_the_whole_covariance() -> None:
    """_unsupervised__dipvae.py, mode ii: E[diag σ²] is torch.diag of the (B, D) variances, which takes their diagonal,
    averaged to one number. Ours puts the mean of each variance on the diagonal.
    """
    given = inputs()
    variance = given.logvar.exp()
    theirs = torch.diag(variance).mean(0)
    assert theirs.shape == ()
    mu = given.mu - given.mu.mean(0)
    assert_dip_pulls(given, mu.T @ mu / B + variance.mean(0).diag())


# torch.distributions


def test_distributions_normal_keeps_every_dim_and_its_dtype() -> None:
    _, mu, logvar = (x.bfloat16() for x in posterior())
    scale = (0.5 * logvar).exp()
    assert kl_divergence(Normal(mu, scale), Normal(0, 1)).shape == (B, D)
    theirs = kl_divergence(Independent(Normal(mu, scale), 1), Independent(Normal(torch.zeros(D), 1), 1))
    assert theirs.shape == (B,)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    assert kl_divergence(Normal(mu, scale), prior).dtype == torch.bfloat16
    assert gaussian_kl(mu, logvar, reduction="sample").dtype == torch.float32


def test_distributions_take_sigma_and_ours_log_sigma_squared() -> None:
    """σ underflows where log σ² does not."""
    mu, logvar = torch.zeros(1, 1), torch.full((1, 1), -300.0)
    assert (0.5 * logvar).exp() == 0
    with pytest.raises(ValueError, match="scale"):
        # on by default, but torch.compile turns it off for the whole process
        Normal(mu, (0.5 * logvar).exp(), validate_args=True)
    assert gaussian_kl(mu, logvar) == 149.5


# Hand-written code


@pytest.mark.parametrize("dtype, off", [(torch.float32, 0.1), (torch.bfloat16, 0.9)])
def test_hand_written_kl_cancels_near_sigma_1(dtype: torch.dtype, off: float) -> None:
    v = torch.linspace(1e-4, 1e-2, 101)[:, None].to(dtype)
    zero = torch.zeros_like(v)
    exact = gaussian_kl(zero.double(), v.double(), reduction="sample")
    error = (plain_kl(zero, v).double() / exact - 1).abs().max()
    assert error > off
    torch.testing.assert_close(gaussian_kl(zero, v, reduction="sample").double(), exact, rtol=1e-5, atol=0)


def test_hand_written_kl_comes_out_negative() -> None:
    v = torch.linspace(-1e-2, 1e-2, 1001)[:, None]
    for dtype in (torch.float32, torch.bfloat16):
        zero, x = torch.zeros_like(v).to(dtype), v.to(dtype)
        assert (0.5 * (x.exp() - 1 - x)).min() < 0
        assert gaussian_kl(zero, x, reduction="none").min() >= 0


def test_hand_written_means_hide_a_beta() -> None:
    """A cross-entropy averaged over pixels beside a KL summed over dims has a β of P; with both averaged over everything
    it is P / D.
    """
    decoded, x = images()
    given = inputs()
    nll = bernoulli_nll(decoded, x)
    mean = F.binary_cross_entropy_with_logits(decoded, x)
    torch.testing.assert_close(PIXELS * (mean + given.kl), nll + PIXELS * given.kl)
    everything = gaussian_kl(given.mu, given.logvar, reduction="none").mean()
    torch.testing.assert_close(PIXELS * (mean + everything), nll + PIXELS / D * given.kl)


def test_hand_written_sums_over_the_batch_scale_the_gradient() -> None:
    """β means the same, but a learning rate of plain SGD and a clipped norm do not."""
    decoded, x = images()
    decoded.requires_grad_()
    summed = F.binary_cross_entropy_with_logits(decoded, x, reduction="sum")
    grads = [torch.autograd.grad(loss, decoded)[0] for loss in (summed, bernoulli_nll(decoded, x))]
    torch.testing.assert_close(grads[0], B * grads[1])


def test_hand_written_squared_error_without_its_half_is_half_the_beta() -> None:
    decoded, x = images()
    given = inputs()
    theirs = F.mse_loss(decoded, x, reduction="sum") / B + 4 * given.kl
    ours = gaussian_nll(decoded, x) - PIXELS * 0.5 * math.log(2 * math.pi) + 2 * given.kl
    torch.testing.assert_close(theirs, 2 * ours)


def test_hand_written_noise_has_other_bits_and_the_same_seed() -> None:
    zeros = torch.zeros(8, D)
    torch.manual_seed(0)
    theirs = torch.randn_like(zeros)
    torch.manual_seed(0)
    ours = reparameterize(zeros, zeros)
    torch.manual_seed(0)
    assert torch.equal(reparameterize(zeros, zeros), ours) and not torch.equal(ours, theirs)


# Tests of the page itself


def lines_and_tests() -> dict[str, list[str]]:
    """The lines of the page's tables, and the tests that each line names."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what |")]
    return {line: re.findall(r"`((?:[\w/]+\.py::)?test_\w+)`", line.split("|")[-2]) for line in lines}


def defined(test: str) -> bool:
    path, _, name = test.rpartition("::")
    file = ROOT / "tests" / (path or "docs/test_differences.py")
    return file.is_file() and f"\ndef {name}(" in file.read_text(encoding="utf-8")


def test_every_line_of_the_page_names_tests_that_exist() -> None:
    named = lines_and_tests()
    assert named
    for line, tests in named.items():
        assert tests and all(map(defined, tests)), line


def test_every_difference_that_is_tested_here_is_on_the_page() -> None:
    named = {test for tests in lines_and_tests().values() for test in tests}
    page_s_own = {
        "test_every_line_of_the_page_names_tests_that_exist",
        "test_every_difference_that_is_tested_here_is_on_the_page",
    }
    here = {name for name in globals() if name.startswith("test_")} - page_s_own
    assert here <= named, sorted(here - named)
