"""The table of codes holds the encoder's output for every image, in the order of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betavae_fast.data import load_dataset
from betavae_fast.evaluation import Encoder
from betavae_fast.evaluation.encoding import Encoding, encode
from betavae_fast.evaluation.traversal import posterior_values
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


def test_a_clamped_posterior_is_drawn_from_as_in_training(model, monkeypatch):
    """The encoder's own log σ² is near 0; the model lets it be at most −50, where hardly any noise is left."""
    monkeypatch.setattr(model.latent, "logvar_range", (-60.0, -50.0))
    encoding = encode(model, Squares())
    torch.testing.assert_close(torch.from_numpy(encoding.sampled_codes(3)), encoding.mu, rtol=0, atol=1e-9)
    deviations = posterior_values(encoding, [0, 1, 2], [0.0, 1.0]).diff()[:, 0]
    torch.testing.assert_close(deviations, encoding.mu.std(0, correction=0))
    model.train()
    trained = model(Squares().gather(torch.arange(128)), seed=3)
    model.eval()
    torch.testing.assert_close(encoding.kl_per_dim(), trained.kl)


def test_parts_of_a_set_get_the_draws_of_the_whole(model):
    whole = encode(model, Squares())
    part = Encoding(whole.mu[50:], whole.logvar[50:])
    assert (whole.sampled_codes(3)[50:] == part.sampled_codes(3, first_row=50)).all()


def test_the_kl_is_that_of_float64():
    mu, logvar = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(0))
    encoding = Encoding(mu, logvar)
    m, v = mu.double(), logvar.double()
    exact = 0.5 * (m.square() + v.exp() - 1 - v)
    torch.testing.assert_close(encoding.kl().double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(encoding.kl_per_dim().double(), exact.mean(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["bytes", "bool", "float", "double", "grey", "numpy"])
def test_an_encoder_takes_images_of_any_kind(model, kind):
    pixels = Squares().gather(torch.arange(128))
    images = {
        "bytes": pixels,
        "bool": pixels > 0,
        "float": pixels / 255,
        "double": pixels.double() / 255,
        "grey": pixels[:, 0],
        "numpy": pixels.numpy(),
    }[kind]
    exact = BetaVAE((1, 8, 8), latent_dim=3).double().eval()
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        mu, logvar = exact.encode(pixels)
    found = Encoder(model)(images, batch_size=50)
    torch.testing.assert_close(found.mu.double(), mu, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logvar.double(), logvar, rtol=1e-5, atol=1e-6)


def test_bytes_of_0_and_1_are_binary_as_in_a_file(model, tmp_path):
    bits = (Squares().gather(torch.arange(128)).numpy()[:, 0] > 0).astype(np.uint8)
    np.save(tmp_path / "bits.npy", bits)
    found = encode(model, load_dataset(tmp_path / "bits.npy", progress=False))
    torch.testing.assert_close(Encoder(model)(bits).mu, found.mu)
    torch.testing.assert_close(Encoder(model)(torch.from_numpy(bits)).mu, found.mu)
    assert (Encoder(model)(bits).mu - Encoder(model)(bits / np.float32(255)).mu).abs().max() > 1e-3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["reversed", "big-endian", "read-only", "mapped", "transposed"])
def test_an_encoder_takes_arrays_of_any_memory_layout(model, tmp_path, kind):
    pixels = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    expected = Encoder(model)(torch.from_numpy(pixels.copy())).mu
    if kind == "reversed":
        images = pixels[:, ::-1].copy()[:, ::-1]
    elif kind == "transposed":
        images = pixels.T.copy().T
    elif kind == "mapped":
        np.save(tmp_path / "pixels.npy", pixels)
        images = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    else:
        images = pixels.astype(">f4") if kind == "big-endian" else pixels
        images.flags.writeable = kind != "read-only"
    torch.testing.assert_close(Encoder(model)(images).mu, expected)


@pytest.mark.parametrize("precision", ["bf16", torch.int32, torch.float16, torch.float64])
def test_a_precision_that_networks_do_not_compute_in_is_refused(model, precision):
    with pytest.raises(ValueError, match=r"precision must be torch.float32 or torch.bfloat16, got"):
        Encoder(model, precision)
    with pytest.raises(ValueError, match=r"precision must be torch.float32 or torch.bfloat16, got"):
        encode(model, Squares(), precision=precision)


@pytest.mark.parametrize("batch_size", [2.5, True, "8"])
def test_a_batch_size_that_is_no_integer_is_refused(model, batch_size):
    with pytest.raises(TypeError, match="batch_size must be an integer, got"):
        Encoder(model)(torch.zeros(5, 8, 8), batch_size=batch_size)


@pytest.mark.parametrize("images", [0, 5, 300])
def test_the_codes_can_be_trained_on_and_changed(model, images):
    found = Encoder(model)(torch.zeros(images, 8, 8))
    layer = torch.nn.Linear(3, 2)
    layer(found.mu + found.logvar).sum().backward()
    assert layer.weight.grad is not None
    found.mu.add_(1)
    assert not found.mu.requires_grad and not found.logvar.is_inference()


def test_an_encoder_takes_no_images(model):
    assert Encoder(model)(torch.zeros(0, 8, 8)).mu.shape == (0, 3)


@pytest.mark.parametrize(
    "images, error, message",
    [
        (torch.zeros(2, 1, 8, 9), ValueError, r"\(B, 1, 8, 8\) or \(B, 8, 8\), got \(2, 1, 8, 9\)"),
        (torch.zeros(8, 8), ValueError, r"got \(8, 8\)"),
        (torch.full((2, 8, 8), 255.0), ValueError, r"must lie in \[0, 1\], got 255 to 255; pass uint8"),
        (torch.full((2, 8, 8), torch.nan), ValueError, r"must lie in \[0, 1\], got NaN$"),
        (torch.full((2, 8, 8), -1.0), ValueError, r"must lie in \[0, 1\], got -1 to -1; scale them"),
        (
            torch.zeros(2, 8, 8, dtype=torch.int64),
            TypeError,
            "bool, uint8 or floating point, got torch.int64",
        ),
    ],
)
def test_images_that_the_model_cannot_take_are_refused(model, images, error, message):
    with pytest.raises(error, match=message):
        Encoder(model)(images)
