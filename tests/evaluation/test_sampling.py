"""Codes from the prior, the aggregated posterior and between images, and ``betavae-fast sample`` as a user sees it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from betavae_fast.data import load_dataset
from betavae_fast.evaluation import Encoder, pictures, sampling
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.nn import BetaVAE
from tests.commands import run
from tests.evaluation.grid import Squares


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on the squares, as an array."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "squares.npy", Squares().gather(torch.arange(128)).numpy()[:, 0] // 2)
    told = ["--steps=6", "--batch-size=32", "--latent-dim=3", "--beta=1", "--lr=0.03", "--precision=fp32"]
    assert run("train", f"--data={folder / 'squares.npy'}", *told, f"--out={folder / 'run'}") == 0
    return folder / "run"


def exactly_decoded(trained: Path, z: np.ndarray) -> Tensor:
    model = Encoder.from_run(trained, "cpu").model.double()
    with torch.no_grad():
        return model.pixels(model.decode(torch.from_numpy(z).double()))


def test_the_prior_draws_the_codes_of_the_models_own_samples():
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=3).eval()
    drawn = sampling.decode(model, sampling.prior_codes(300, 3, seed=5))
    torch.testing.assert_close(drawn, model.sample(300, seed=5))


def two_clusters(n: int = 4000) -> Encoding:
    """Posteriors of which the first two channels are used, at (2, 2) or (−2, −2), and the third is not."""
    generator = torch.Generator().manual_seed(0)
    side = 4.0 * torch.randint(2, (n, 1), generator=generator) - 2
    mu = torch.cat([side + 0.3 * torch.randn(n, 2, generator=generator), torch.zeros(n, 1)], dim=1)
    return Encoding(mu, torch.tensor([-4.0, -4.0, 0.0]).expand(n, 3).contiguous())


def test_the_aggregated_posterior_is_drawn_from_with_its_clusters():
    encoding = two_clusters()
    drawn = sampling.aggregate_codes(encoding, 4000, seed=1)
    assert drawn.dtype == torch.float32 and drawn.shape == (4000, 3)
    # A single Gaussian of these moments would have a fourth of its draws near neither cluster.
    assert ((drawn[:, 0].abs() - 2).abs() < 1.5).double().mean() > 0.99
    assert (drawn[:, 0].sign() == drawn[:, 1].sign()).double().mean() > 0.99
    exact = torch.cov(encoding.mu[:, :2].double().T) + np.exp(-4.0) * torch.eye(2)
    torch.testing.assert_close(torch.cov(drawn[:, :2].double().T), exact, rtol=0.05, atol=0.05)
    unused = drawn[:, 2].double()
    assert abs(unused.mean()) < 0.05 and abs(unused.std() - 1) < 0.05
    assert torch.equal(drawn, sampling.aggregate_codes(encoding, 4000, seed=1))
    assert not torch.equal(drawn, sampling.aggregate_codes(encoding, 4000, seed=2))


def test_the_components_are_mixed_so_that_a_few_draws_are_a_sample():
    first = sampling.aggregate_codes(two_clusters(), 400, seed=1)[:40, 0]
    assert 5 < (first > 0).sum() < 35


def test_channels_that_no_image_uses_come_from_the_prior():
    drawn = sampling.aggregate_codes(Encoding(torch.zeros(50, 2), torch.zeros(50, 2)), 9, seed=4)
    assert torch.equal(drawn, sampling.prior_codes(9, 2, seed=4))


@pytest.mark.parametrize(
    "encoding, message",
    [
        (Encoding(torch.ones(1, 2), torch.zeros(1, 2)), "at least 2 images, got 1"),
        (Encoding(torch.full((9, 2), torch.nan), torch.zeros(9, 2)), "codes must be finite"),
    ],
)
def test_an_aggregated_posterior_that_cannot_be_fitted_is_refused(encoding, message):
    with pytest.raises(ValueError, match=message):
        sampling.aggregate_codes(encoding, 4, seed=0)


@given(ends=st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4), n=st.integers(2, 50))
def test_steps_between_two_codes_are_equal(ends, n):
    first, last = torch.tensor(ends).split(2)
    found = sampling.between(first, last, n)
    exact = np.linspace(first.double().numpy(), last.double().numpy(), n)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0], first) and torch.equal(found[-1], last)


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="the decoded images must be finite"):
        sampling.decode(BetaVAE((1, 8, 8), latent_dim=3).eval(), torch.full((2, 3), torch.nan))


@settings(max_examples=30)
@given(n=st.integers(1, 9), columns=st.integers(1, 5), channels=st.sampled_from([1, 3]))
def test_a_grid_shows_each_image_in_reading_order(n, columns, channels):
    images = np.random.default_rng(0).random((n, channels, 70, 66), dtype=np.float32)
    drawn = np.asarray(pictures.grid(images, columns)).astype(np.float64) / 255
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        cell = drawn[71 * row : 71 * row + 70, 67 * column : 67 * column + 66]
        np.testing.assert_allclose(
            np.moveaxis(cell, -1, 0), np.broadcast_to(image, (3, 70, 66)), atol=0.5 / 255 + 1e-6
        )
    rows = -(-n // columns)
    assert drawn.shape == (71 * rows - 1, 67 * columns - 1, 3)


def test_reconstructions_stand_below_their_originals():
    originals = torch.arange(5.0).view(5, 1, 1, 1)
    shown = sampling.in_pairs(originals, 10 + originals, columns=3).flatten().tolist()
    assert shown == [0, 1, 2, 10, 11, 12, 3, 4, 1, 13, 14, 1]  # white, 1, fills the rows


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize("source", ["prior", "aggregate"])
def test_samples_are_a_picture_and_arrays(trained, tmp_path, capsys, source):
    assert (
        run("sample", str(trained), "-n", "10", f"--from={source}", "--seed=2", f"--out={tmp_path / 'new'}")
        == 0
    )
    assert str(tmp_path / "new" / f"{source}.png") in capsys.readouterr().out
    found = arrays(tmp_path / "new" / f"{source}.npz")
    assert set(found) == {"images", "z"} and found["images"].shape == (10, 1, 8, 8)
    np.testing.assert_allclose(found["images"], exactly_decoded(trained, found["z"]), rtol=1e-4, atol=1e-5)
    with Image.open(tmp_path / "new" / f"{source}.png") as picture:
        assert picture.size == (8 * (4 * 9 - 1), 8 * (3 * 9 - 1))  # four columns, enlarged eight times
    again = tmp_path / "again"
    assert run("sample", str(trained), "-n", "10", f"--from={source}", "--seed=2", f"--out={again}") == 0
    assert (arrays(again / f"{source}.npz")["z"] == found["z"]).all()


def test_seeds_of_64_bits_are_seeds(trained, tmp_path):
    drawn = []
    for seed in (2**64 - 1, 5_000_000_000, 5_000_000_000 - 2**32):
        told = ["--from=aggregate", f"--seed={seed}", "-n4", f"--out={tmp_path}"]
        assert run("sample", str(trained), *told) == 0
        drawn.append(arrays(tmp_path / "aggregate.npz")["z"])
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()


def test_a_grid_of_many_images_takes_hardly_more_memory_than_their_bytes():
    images = np.zeros((20_000, 1, 64, 64), np.float32)
    tracemalloc.start()
    try:
        pictures.grid(images, 142)
        assert tracemalloc.get_traced_memory()[1] < 20_000 * pictures.grid_bytes(64, 64)
    finally:
        tracemalloc.stop()


def test_the_prior_needs_no_data_and_is_the_default(trained, tmp_path):
    moved = trained.parent / "squares.npy"
    moved.rename(trained.parent / "away.npy")
    try:
        assert run("sample", str(trained), f"--out={tmp_path}") == 0
        assert run("sample", str(trained), "--from=aggregate", f"--out={tmp_path}") == 2
    finally:
        (trained.parent / "away.npy").rename(moved)
    assert arrays(tmp_path / "prior.npz")["z"].shape == (64, 3)


def test_one_image_is_not_called_images_and_replaces_earlier_files(trained, tmp_path, capsys):
    for seed in (1, 2):
        assert run("sample", str(trained), "-n1", f"--seed={seed}", f"--out={tmp_path}") == 0
    assert capsys.readouterr().out.startswith("1 image, prior: ")
    assert (arrays(tmp_path / "prior.npz")["z"] == sampling.prior_codes(1, 3, seed=2).numpy()).all()


def test_images_of_a_data_set_are_reconstructed(trained, tmp_path):
    data = trained.parent / "squares.npy"
    assert run("sample", str(trained), "-n", "12", f"--from={data}", f"--out={tmp_path}") == 0
    found = arrays(tmp_path / "reconstructions.npz")
    assert len(set(found["index"].tolist())) == 12
    originals = load_dataset(data, progress=False).gather(torch.from_numpy(found["index"]))
    np.testing.assert_allclose(found["z"], Encoder.from_run(trained)(originals).mu, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["images"], exactly_decoded(trained, found["z"]), rtol=1e-4, atol=1e-5)
    with Image.open(tmp_path / "reconstructions.png") as picture:
        assert picture.size == (8 * (4 * 9 - 1), 8 * (6 * 9 - 1))
        shown = np.asarray(picture)[:64, :64, 0][::8, ::8]
    assert (shown == originals[0, 0].numpy()).all()


def test_images_of_a_folder_are_reconstructed_and_named(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (5, 9, 12), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    assert run("sample", str(trained), "-n3", f"--from={tmp_path / 'photos'}", f"--out={tmp_path}") == 0
    found = arrays(tmp_path / "reconstructions.npz")
    assert set(found) == {"images", "z", "file"}
    decoded = load_dataset(tmp_path / "photos", image_size=8, channels=1, progress=False)
    originals = decoded.gather(torch.tensor([int(name[0]) for name in found["file"]]))
    np.testing.assert_allclose(found["z"], Encoder.from_run(trained)(originals).mu, rtol=1e-4, atol=1e-5)


def test_the_way_between_two_images_is_straight(trained, tmp_path):
    assert run("sample", str(trained), "--between", "3", "100", "-n", "5", f"--out={tmp_path}") == 0
    found = arrays(tmp_path / "between.npz")
    images = load_dataset(trained.parent / "squares.npy", progress=False).gather(torch.tensor([3, 100]))
    first, last = Encoder.from_run(trained)(images).mu.double()
    exact = torch.stack([first + step / 4 * (last - first) for step in range(5)])
    np.testing.assert_allclose(found["z"], exact, rtol=1e-4, atol=1e-5)
    with Image.open(tmp_path / "between.png") as picture:
        assert picture.size == (8 * (5 * 9 - 1), 64)


def test_other_images_than_the_trainings_are_named(trained, tmp_path, capsys):
    np.save(tmp_path / "other.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    told = ["--from=aggregate", f"--data={tmp_path / 'other.npy'}", f"--out={tmp_path}"]
    assert run("sample", str(trained), *told) == 0
    assert "These are not the training images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["-n", "0"], "n must be at least 1, got 0"),
        (["--between", "0", "1", "-n", "1"], "n must be at least 2, got 1"),
        (["--between", "0", "128"], "between must name images in [0, 128), got 128"),
        (["--between", "0", "-1"], "between must name images in [0, 128), got -1"),
        (["--between", "0", "1", "--from", "prior"], "give --from or --between, not both"),
        (["--data", "nowhere.npy"], "--data is for --from aggregate and --between, got --from prior"),
        (["--from", "few.npy", "--data", "nowhere.npy"], "--between, got --from few.npy"),
        (["--seed", "-1"], "seed must be in [0, 2^64), got -1"),
        (["--seed", str(2**64)], "seed must be in [0, 2^64), got 18446744073709551616"),
        (["-n", str(10**9)], "-n 1000000000: needs 21.8 TB of memory, "),
        (["-n", str(10**20)], "TB of memory, "),
        (["--from", "nowhere"], "no data set or file named"),
        (["--from", "few.npy"], "n must be at most the number of images, 3, got 64"),
        (["--from", "wide.npy"], "takes images of shape (1, 8, 8), but"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((3, 8, 9), np.uint8))
    np.save("few.npy", np.zeros((3, 8, 8), np.uint8))
    assert run("sample", str(trained), *options) == 2
    *bars, error = capfd.readouterr().err.splitlines()
    assert error.startswith("betavae-fast: ") and all(bar.startswith("Checking ") for bar in bars)
    assert message in error
    assert not list(tmp_path.glob("samples/*"))
