"""The scripts in examples/ run unchanged and their loss falls; the trained model there is what its card says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from betavae_fast.data import load_dataset
from betavae_fast.evaluation.encoding import encode
from betavae_fast.evaluation.metrics import mig_score
from betavae_fast.training.trained_run import open_run
from tests import PATIENCE
from tests.backends import ROOT, fresh_process

NEEDS = {"hand_written": None, "lightning_module": "lightning", "accelerate_loop": "accelerate"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a square of one size at different places."""
    pixels = np.zeros((512, 16, 16), np.bool_)
    for image, (row, column) in zip(pixels, np.random.default_rng(0).integers(0, 10, (512, 2)), strict=True):
        image[row : row + 6, column : column + 6] = True
    path = tmp_path_factory.mktemp("examples") / "squares.npy"
    np.save(path, pixels)
    return path


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_example_trains(name: str, images: Path, tmp_path: Path) -> None:
    library = NEEDS[name]
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    script = str(ROOT / "examples" / f"{name}.py")
    done = fresh_process(
        script, "--data", str(images), "--steps", "150", directory=tmp_path, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    *_, loss = (float(number) for number in re.findall(r"loss'?:? (\d+\.\d+)", done.stdout))
    # The loss of an untrained model is 256 ln 2 = 177 nats. A model that knows only the frequency of each pixel reaches
    # about 90.
    assert loss < 100, done.stdout


def test_the_trained_model_follows_position_and_scale_as_its_card_says() -> None:
    folder = ROOT / "examples" / "dsprites"
    run = open_run(folder, "cpu")
    dataset = load_dataset("dsprites", progress=False)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:10_000]
    codes = encode(run.model, dataset, rows).mean_codes
    factors = dataset.factors(rows).numpy()[:, 1:]
    found = mig_score(codes, factors, np.random.default_rng(0))
    card = (folder / "README.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"^\| MIG \| (\d\.\d+) ± ", card, re.MULTILINE)
    assert found.score == pytest.approx(float(told), abs=0.02)
    shares = found.mutual_information / found.entropies
    for name in ("scale", "posX", "posY"):
        column = ("shape", "scale", "orientation", "posX", "posY").index(name)
        channel = int(shares[:, column].argmax())
        assert shares[channel, column] > 0.4
        assert re.search(rf"^- Channel {channel} \([\d.]+ nats\) follows {name}:", card, re.MULTILINE)
