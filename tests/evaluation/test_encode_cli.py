"""``betavae-fast encode`` as a user sees it, and the files that it writes."""

from __future__ import annotations

import shutil
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import betavae_fast.data
from betavae_fast.data import ByteImages, FolderImages, ImageDataset
from betavae_fast.evaluation import Encoder, code_file
from betavae_fast.evaluation.code_file import write_codes
from betavae_fast.evaluation.encoding import encode
from betavae_fast.nn import BetaVAE
from tests.backends import ROOT, fresh_process
from tests.commands import run
from tests.evaluation.grid import Squares

PYARROW = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


def fails(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line, and return the line. A bar may stand above it: data were loaded."""
    assert run(*arguments) == 2
    *bars, error = capfd.readouterr().err.splitlines()
    assert error.startswith("betavae-fast: ") and all(bar.startswith("Checking ") for bar in bars)
    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on the squares, as an array."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "squares.npy", Squares().gather(torch.arange(128)).numpy()[:, 0] // 2)
    told = ["--steps=6", "--batch-size=32", "--latent-dim=3", "--lr=0.03", "--precision=fp32"]
    assert run("train", f"--data={folder / 'squares.npy'}", *told, f"--out={folder / 'run'}") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exact(trained: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The moments of all images in float64."""
    model = Encoder.from_run(trained, "cpu").model.double()
    pixels = torch.from_numpy(np.load(trained.parent / "squares.npy"))[:, None]
    with torch.no_grad():
        return model.encode(pixels)


def assert_close(found: np.ndarray, exact: torch.Tensor) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact.numpy(), rtol=1e-4, atol=1e-5)


def test_the_codes_are_those_of_float64(trained, exact, tmp_path, capsys):
    out = tmp_path / "new folder" / "codes.npz"
    assert (
        run("encode", str(trained), f"--out={out}", "--sampled", "--seed=3", "--kl", "--batch-size=50") == 0
    )
    said = capsys.readouterr().out
    assert "128 images in " in said and f"images/s: {out}" in said
    mu, logvar = exact
    with np.load(out) as codes:
        assert set(codes) == {"mu", "logvar", "z", "kl", "index"}
        assert_close(codes["mu"], mu)
        assert_close(codes["logvar"], logvar)
        assert_close(codes["kl"], 0.5 * (mu.square() + logvar.exp() - 1 - logvar))
        noise = (torch.from_numpy(codes["z"]).double() - mu) / (0.5 * logvar).exp()
        assert abs(float(noise.mean())) < 0.2 and abs(float(noise.std()) - 1) < 0.15
        assert codes["index"].tolist() == list(range(128))
    assert [path.name for path in out.parent.iterdir()] == ["codes.npz"]


def test_what_was_not_asked_for_is_not_written(trained, tmp_path):
    assert run("encode", str(trained), f"--out={tmp_path / 'codes.npz'}") == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert set(codes) == {"mu", "logvar", "index"}


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 140), batch_size=st.none() | st.integers(1, 140), seed=st.integers(0, 2**63 - 1))
def test_the_blocks_leave_no_trace(tmp_path_factory, rows, batch_size, seed):
    """The file is that of a single block, whatever the number of images in each."""
    torch.manual_seed(0)
    model, folder = BetaVAE((1, 8, 8), latent_dim=3).eval(), tmp_path_factory.mktemp("blocks")
    whole = encode(model, Squares())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_file, "_ROWS", rows)
        write_codes(folder / "codes.npz", model, Squares(), seed=seed, kl=True, batch_size=batch_size)
    with np.load(folder / "codes.npz") as codes:
        assert codes["mu"].shape == (128, 3)
        for name, expected in (("mu", whole.mu), ("z", whole.sampled_codes(seed)), ("kl", whole.kl())):
            np.testing.assert_allclose(codes[name], np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_the_same_codes_make_the_same_file(tmp_path):
    model = BetaVAE((1, 8, 8), latent_dim=3).eval()
    for name in ("first.npz", "second.npz"):
        write_codes(tmp_path / name, model, Squares(), seed=1)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_draws_respect_the_range_of_the_models_log_variance(tmp_path):
    model = BetaVAE((1, 8, 8), latent_dim=3, logvar_range=(-60.0, -50.0)).eval()
    write_codes(tmp_path / "codes.npz", model, Squares(), seed=1, kl=True)
    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["logvar"].max() == -50
        np.testing.assert_allclose(codes["z"], codes["mu"], rtol=0, atol=1e-9)
        assert codes["kl"].min() > 24


def test_known_factors_are_written_with_their_names(tmp_path):
    write_codes(tmp_path / "codes.npz", BetaVAE((1, 8, 8), latent_dim=3).eval(), Squares())
    with np.load(tmp_path / "codes.npz") as codes:
        assert set(codes) == {
            "mu", "logvar", "factor_color", "factor_size", "factor_posX", "factor_posY",
        }  # fmt: skip
        assert codes["factor_posY"].tolist() == [*range(8)] * 16
        assert codes["factor_size"].tolist() == [0] * 64 + [1] * 64


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder of coloured pictures of another size than the model's, in subfolders."""
    random = np.random.default_rng(0)
    for number in range(7):
        path = tmp_path / "photos" / f"day {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_a_folder_becomes_what_the_model_takes_and_files_are_named(trained, photos, tmp_path):
    out = tmp_path / "codes.npz"
    assert run("encode", str(trained), f"--data={photos}", f"--out={out}") == 0
    files = [f"day 0/{number}.png" for number in (0, 2, 4, 6)] + [
        f"day 1/{number}.png" for number in (1, 3, 5)
    ]
    model = Encoder.from_run(trained, "cpu")
    decoded = betavae_fast.data.load_dataset(photos, image_size=8, channels=1, progress=False)
    with np.load(out) as codes:
        assert codes["file"].tolist() == files
        expected = model(decoded.gather(torch.arange(7))).mu.double()
        assert_close(codes["mu"], expected)


def test_a_run_on_a_grey_folder_encodes_it_after_a_colour_file_was_added(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    told = ["--image-size=8", "--steps=1", "--batch-size=4", "--latent-dim=3", "--precision=fp32"]
    assert run("train", f"--data={tmp_path / 'photos'}", *told, f"--out={tmp_path / 'run'}") == 0
    Image.new("RGB", (20, 31), "red").save(tmp_path / "photos" / "a.png")
    assert run("encode", str(tmp_path / "run"), f"--out={tmp_path / 'codes.npz'}") == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["file"].tolist() == [*(f"{number}.png" for number in range(9)), "a.png"]


def test_a_damaged_image_is_named_and_no_file_is_left(trained, photos, tmp_path, capfd):
    damaged = photos / "day 1" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert str(damaged) in fails(
        capfd, "encode", str(trained), f"--data={photos}", f"--out={tmp_path / 'c.npz'}"
    )
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_an_existing_file_is_only_replaced_when_told(trained, tmp_path, capfd):
    out = tmp_path / "codes.npz"
    out.write_bytes(b"mine")
    assert "already exists; replace it with --overwrite" in fails(
        capfd, "encode", str(trained), f"--out={out}"
    )
    assert out.read_bytes() == b"mine"
    assert run("encode", str(trained), f"--out={out}", "--overwrite") == 0
    assert np.load(out)["mu"].shape == (128, 3)


@pytest.mark.parametrize("broken", [KeyboardInterrupt, MemoryError])
def test_ctrl_c_leaves_no_half_file(trained, tmp_path, monkeypatch, capfd, broken):
    done = []

    def interrupted(*arguments: object, **options: object) -> object:
        if done:
            raise broken
        done.append(1)
        return encode(*arguments, **options)

    monkeypatch.setattr(code_file, "_ROWS", 50)
    monkeypatch.setattr(code_file, "encode", interrupted)
    out = tmp_path / "codes.npz"
    out.write_bytes(b"mine")
    if broken is KeyboardInterrupt:
        assert run("encode", str(trained), f"--out={out}", "--overwrite") == 130
        assert capfd.readouterr().err.endswith("betavae-fast: interrupted\n")
    else:
        assert "out of memory" in fails(capfd, "encode", str(trained), f"--out={out}", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"] and out.read_bytes() == b"mine"


def test_a_run_from_another_machine_asks_for_its_data(trained, tmp_path, capfd):
    shutil.copytree(trained.parent, tmp_path / "there")
    there, data = tmp_path / "there" / "run", tmp_path / "there" / "squares.npy"
    out = f"--out={tmp_path / 'codes.npz'}"
    (trained.parent / "squares.npy").rename(trained.parent / "away.npy")
    try:
        assert "give their new path with --data" in fails(capfd, "encode", str(there), out)
        assert run("encode", str(there), f"--data={data}", out) == 0
    finally:
        (trained.parent / "away.npy").rename(trained.parent / "squares.npy")


def test_a_folder_of_the_files_name_is_refused_before_anything_is_encoded(
    trained, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(code_file, "encode", None)
    (tmp_path / "codes.npz").mkdir()
    told = ["encode", str(trained), f"--out={tmp_path / 'codes.npz'}", "--overwrite"]
    assert "codes.npz: codes are written to a file, and this is a folder" in fails(capfd, *told)


def test_no_images_make_no_file(tmp_path):
    nothing = ByteImages("nothing", torch.zeros(0, 1, 8, 8, dtype=torch.uint8), (1, 8, 8))
    with pytest.raises(ValueError, match="nothing: no images to encode"):
        write_codes(tmp_path / "codes.npz", BetaVAE((1, 8, 8), latent_dim=3).eval(), nothing)
    assert not list(tmp_path.iterdir())


def test_one_long_name_does_not_make_all_names_long_at_once(photos):
    dataset = FolderImages(photos, progress=False)
    dataset.files = [f"{number}.png" for number in range(20_000)] + [1000 * "x"]
    tracemalloc.start()
    try:
        told = code_file.described(dataset)
        blocks = [told(torch.tensor([0, 7]))["file"], told(torch.tensor([20_000]))["file"]]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert blocks[0].tolist() == ["0.png", "7.png"] and blocks[0].dtype == blocks[1].dtype == "<U1000"


class NotANumber(BetaVAE):
    """A model whose code of image 5 is NaN in channel 1."""

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, logvar = super().encode(images)
        mu[5, 1] = torch.nan
        return mu, logvar


def test_codes_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mu must be finite, got nan for image 5 in channel 1"):
        write_codes(tmp_path / "codes.npz", NotANumber((1, 8, 8), latent_dim=3).eval(), Squares())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--out=codes.csv"], "codes.csv: codes are written as .npz or .parquet, got '.csv'"),
        (["--out=codes"], "or .parquet, got no suffix"),
        (["--out=c.npz", "--seed=-1"], "seed must be in [0, 2^64), got -1"),
        (
            ["--out=c.npz", "--sampled", f"--seed={2**64}"],
            "seed must be in [0, 2^64), got 18446744073709551616",
        ),
        (["--out=c.npz", "--batch-size=0"], "--batch-size must be at least 1, got 0"),
        (["--out=c.npz", "--precision=fp8"], "fp8"),
        (["--out=c.npz", "--data=nowhere.npy"], "nowhere.npy"),
        (["--out=c.npz", "--data=wide.npy"], "takes images of shape (1, 8, 8), but"),
        (["--out=c.npz", "--data=nan.npy"], "nan"),
        ([], "--out"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((3, 8, 9), np.uint8))
    np.save("nan.npy", np.full((3, 8, 8), np.nan, np.float32))
    assert message in fails(capfd, "encode", str(trained), *options)
    assert not list(tmp_path.glob("c*"))


def test_without_pyarrow_the_error_says_what_to_install(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(code_file, "find_spec", lambda _: None)
    out = tmp_path / "codes.parquet"
    assert "which is not installed: pip install pyarrow" in fails(
        capfd, "encode", str(trained), f"--out={out}"
    )


@PYARROW
def test_a_parquet_file_has_a_column_for_each_channel(trained, exact, photos, tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(code_file, "_ROWS", 50)
    assert run("encode", str(trained), f"--out={tmp_path / 'codes.parquet'}", "--sampled", "--kl") == 0
    table = parquet.read_table(tmp_path / "codes.parquet")
    expected = [f"{name}_{channel}" for name in ("mu", "logvar", "z", "kl") for channel in range(3)]
    assert table.column_names == [*expected, "index"]
    for channel in range(3):
        assert_close(table[f"mu_{channel}"].to_numpy(), exact[0][:, channel])
        assert_close(table[f"logvar_{channel}"].to_numpy(), exact[1][:, channel])
    assert run("encode", str(trained), f"--data={photos}", f"--out={tmp_path / 'photos.parquet'}") == 0
    assert parquet.read_table(tmp_path / "photos.parquet")["file"].to_pylist()[3:5] == [
        "day 0/6.png",
        "day 1/1.png",
    ]


class OnDemand(ImageDataset):
    """Many images, of which none exists before it is read."""

    _full_scale = 255

    def __init__(self) -> None:
        super().__init__("on demand", (1, 8, 8))
        self.most = 0

    def __len__(self) -> int:
        return 100_000

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> ImageDataset:
        raise AssertionError("the whole set must not be copied")

    def _take(self, indices: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, len(indices))
        return torch.zeros(len(indices), 1, 8, 8, dtype=torch.uint8)

    def canonical_bytes(self, start: int, stop: int) -> np.ndarray:
        raise AssertionError("the images must not be read twice")

    def _pixel_sums(self) -> torch.Tensor:
        raise AssertionError("the images must not be read twice")


def test_images_are_read_once_and_a_few_at_a_time(tmp_path):
    dataset = OnDemand()
    seen: list[int] = []
    model = BetaVAE((1, 8, 8), latent_dim=3, architecture="mlp").eval()
    write_codes(tmp_path / "codes.npz", model, dataset, on_images=seen.append)
    assert sum(seen) == 100_000 and dataset.most <= 128


def test_the_shipped_model_encodes_images_that_are_not_its_own(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).integers(0, 256, (200, 64, 64), dtype=np.uint8))
    told = ["encode", str(ROOT / "examples" / "dsprites"), "--data", "mine.npy", "--out", "codes.npz"]
    done = fresh_process("-m", "betavae_fast", *told, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "200 images in " in done.stdout
    with np.load(tmp_path / "codes.npz") as codes:
        found = Encoder.from_run(ROOT / "examples" / "dsprites")(np.load(tmp_path / "mine.npy"))
        np.testing.assert_allclose(codes["mu"], found.mean_codes, rtol=1e-4, atol=1e-4)


def test_a_set_in_memory_is_a_set_like_any_other(tmp_path):
    grey = ByteImages("grey", torch.full((3, 1, 8, 8), 128, dtype=torch.uint8), (1, 8, 8))
    write_codes(tmp_path / "codes.npz", BetaVAE((1, 8, 8), latent_dim=3).eval(), grey)
    assert np.load(tmp_path / "codes.npz")["index"].tolist() == [0, 1, 2]
