"""Published data sets and one's own factors, as a user of the command line meets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betavae_fast.files import read_json
from betavae_fast.training.trained_run import open_run
from tests.backends import ROOT
from tests.commands import run
from tests.data import published

TOLD = ["--steps=3", "--batch-size=8", "--latent-dim=3", "--precision=fp32"]


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1]


def write_shapes(folder: Path) -> Path:
    published.write_shapes(folder / "3dshapes.h5")
    return folder / "3dshapes.h5"


def write_mpi(folder: Path) -> Path:
    published.write_mpi(folder / "mpi3d_toy.npz", deflated=True)
    return folder / "mpi3d_toy.npz"


def write_norb(folder: Path) -> Path:
    for part in published.NORB.parts:
        published.write_norb(folder, part)
    return folder


def write_cars(folder: Path) -> Path:
    published.write_cars(folder)
    return folder


def write_celeba(folder: Path) -> Path:
    published.write_celeba(folder)
    return folder


@pytest.mark.parametrize("write", [write_shapes, write_mpi, write_norb, write_cars, write_celeba])
def test_a_published_set_is_trained_on_evaluated_and_encoded(
    write,
    tmp_path: Path,
    small_forms: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BETAVAE_FAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    data = write(tmp_path / "data")
    out, codes = tmp_path / "run", tmp_path / "codes.npz"
    assert run("train", f"--data={data}", *TOLD, f"--out={out}") == 0
    assert run("evaluate", str(out), "--metrics=mig,factor-vae") == 0
    assert run("encode", str(out), f"--out={codes}") == 0
    document = read_json(out / "evaluation.json")
    assert [scored["metric"] for scored in document["scores"]] == ["factor-vae", "mig", "mig"]
    dataset = open_run(out).images()
    with np.load(codes) as found:
        named = [name.removeprefix("factor_") for name in found if name.startswith("factor_")]
        assert tuple(named) == dataset.factor_names and "index" not in found
        assert ("file" in found) == (write is write_celeba)
        assert len(found["mu"]) == len(dataset)
    assert set(document["factors"]["names"]) <= set(named)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an array of 64 images, their factors, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 256, (64, 16, 16), dtype=np.uint8))
    rows = [f"{row % 3},{['cat', 'dog'][row % 7 == 0]},{rng.random()}" for row in range(64)]
    (folder / "factors.csv").write_text("\n".join(["size,kind,light", *rows]))
    data = [f"--data={folder / 'images.npy'}", f"--factors={folder / 'factors.csv'}"]
    assert run("train", *data, *TOLD, f"--out={folder / 'run'}") == 0
    return folder


def factors_of(results: Path) -> list[str] | None:
    factors = read_json(results / "evaluation.json")["factors"]
    return None if factors is None else factors["names"]


def test_a_run_keeps_its_factors(own: Path, tmp_path: Path) -> None:
    assert run("evaluate", str(own / "run"), f"--out={tmp_path / 'results'}") == 0  # all metrics but dci
    assert factors_of(tmp_path / "results") == ["size", "kind", "light"]
    assert run("encode", str(own / "run"), f"--out={tmp_path / 'codes.npz'}") == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["factor_size"].tolist() == [row % 3 for row in range(64)]
        assert codes["factor_kind"].tolist() == [int(row % 7 == 0) for row in range(64)]
        assert set(np.bincount(codes["factor_light"])) == {3, 4}


def test_a_moved_run_is_given_both_paths(
    own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(own, tmp_path / "moved")
    assert open_run(moved / "run").config.factors == str(own / "factors.csv")
    results = f"--out={tmp_path / 'results'}"
    data, factors = f"--data={moved / 'images.npy'}", f"--factors={moved / 'factors.csv'}"
    assert run("evaluate", str(moved / "run"), data, "--metrics=mig,unsupervised", results) == 0
    assert factors_of(tmp_path / "results") is None, "the run's factors may be of other images"
    assert run("evaluate", str(moved / "run"), data, factors, "--metrics=mig", results) == 0
    assert factors_of(tmp_path / "results") == ["size", "kind", "light"]


def test_factors_that_have_moved_are_named(
    own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(own, tmp_path / "moved")
    data = [f"--data={moved / 'images.npy'}", f"--factors={moved / 'factors.csv'}"]
    assert run("train", *data, *TOLD, f"--out={moved / 'new'}") == 0
    (moved / "factors.csv").rename(moved / "renamed.csv")
    results = f"--out={tmp_path / 'results'}"
    assert run("evaluate", str(moved / "new"), "--metrics=mig", results) == 2
    assert last_line(capfd).endswith(
        "no such file of factors; if it has moved, give its new path with --factors"
    )
    renamed = f"--factors={moved / 'renamed.csv'}"
    assert run("evaluate", str(moved / "new"), renamed, "--metrics=mig", results) == 0
    assert run("train", f"--resume={moved / 'new'}", "--steps=4", renamed) == 0
    assert open_run(moved / "new").config.factors == str(moved / "renamed.csv")
    # Commands that need no factors do without them.
    (moved / "renamed.csv").unlink()
    assert run("traverse", str(moved / "new"), "--image=3", results) == 0
    assert run("sample", str(moved / "new"), "--between", "0", "1", "-n", "2", results) == 0


def test_training_goes_on_without_the_factors(
    own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(own, tmp_path / "moved")
    data = [f"--data={moved / 'images.npy'}", f"--factors={moved / 'factors.csv'}"]
    out = moved / "new"
    assert run("train", *data, *TOLD, f"--out={out}") == 0
    (moved / "factors.csv").rename(moved / "renamed.csv")
    capfd.readouterr()
    assert run("train", f"--resume={out}", f"--factors={moved / 'gone.csv'}") == 2, "the user names a file"
    assert last_line(capfd).endswith("give its new path with --factors")
    assert run("train", f"--resume={out}", "--steps=4") == 0
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("betavae-fast")] == [
        f"betavae-fast: warning: {moved / 'factors.csv'}: no such file of factors; the run goes on without them, "
        "and evaluate takes their new path as --factors"
    ]
    found = open_run(out)
    assert (found.step, found.config.factors) == (4, str(moved / "factors.csv")), "they may come back"


def test_a_run_of_a_version_without_the_setting_opens() -> None:
    assert '"factors"' not in (ROOT / "examples" / "dsprites" / "checkpoint" / "latest.json").read_text()
    assert open_run(ROOT / "examples" / "dsprites", "cpu").config.factors is None


def test_wrong_factors_end_a_command_before_it_works(
    own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.csv").write_text("a\n1\n2\n")
    data = [f"--data={own / 'images.npy'}", f"--factors={tmp_path / 'short.csv'}"]
    assert run("train", *data, *TOLD, f"--out={tmp_path / 'run'}") == 2
    assert "short.csv: column a has 2 rows" in last_line(capfd) and not (tmp_path / "run").exists()


def test_a_sweep_knows_the_factors(own: Path, tmp_path: Path) -> None:
    data = [f"--data={own / 'images.npy'}", f"--factors={own / 'factors.csv'}"]
    out = tmp_path / "sweep"
    told = ["sweep", *data, *TOLD, "--beta=1,4", "--jobs=1", "--metrics=mig", f"--out={out}"]
    assert run(*told) == 0
    documents = [read_json(path) for path in out.rglob("evaluation.json")]
    assert [document["factors"]["names"] for document in documents] == [["size", "kind", "light"]] * 2
    # A first look at one of them is no part of the sweep, which evaluates it again and trains nothing.
    table = (out / "runs.csv").read_bytes()
    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint/*")}
    assert run("evaluate", str(out / "beta=4,seed=0"), "--metrics=mig", "--images=32") == 0
    assert run(*told) == 0
    assert read_json(out / "beta=4,seed=0" / "evaluation.json")["images"] == 64
    assert (out / "runs.csv").read_bytes() == table
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint/*")} == trained


def test_forty_factors_make_a_readable_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    rows = []
    names = [f"attribute_with_a_long_name_{k}" for k in range(39)] + ["$cost$"]
    for image in range(60):
        file = f"{image:02d}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "photos" / file)
        rows.append(",".join([file, *map(str, rng.integers(0, 2, 40))]))
    (tmp_path / "f.csv").write_text("\n".join([",".join(["file", *names]), *rows]))
    out = tmp_path / "run"
    data = [f"--data={tmp_path / 'photos'}", f"--factors={tmp_path / 'f.csv'}", "--image-size=16"]
    assert run("train", *data, "--steps=30", "--lr=0.01", "--beta=0.1", *TOLD[1:], f"--out={out}") == 0
    assert run("evaluate", str(out), "--metrics=mig") == 0
    document = read_json(out / "evaluation.json")
    assert len(document["learned"]["unfollowed"]) > 30
    assert any("others." in sentence and len(sentence) < 1200 for sentence in document["findings"])
    for name in ("information.png", "code-against-factor.png"):
        width, height = Image.open(out / "pictures" / name).size
        assert max(width, height) < 3200, name
    assert run("encode", str(out), f"--out={tmp_path / 'codes.npz'}") == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["file"].tolist() == [f"{image:02d}.png" for image in range(60)]
        assert "factor_$cost$" in codes
