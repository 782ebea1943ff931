"""Held-out images on the command line: train, resume, evaluate, encode and sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from betavae_fast.files import read_json
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import RunFolder
from betavae_fast.training.trained_run import open_run
from tests.commands import run

TRAIN = [
    "train",
    "--data=tiny.npy",
    "--architecture=mlp",
    "--latent-dim=2",
    "--batch-size=16",
    "--precision=fp32",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    """A folder with a data set, and other images of the same shape."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("tiny.npy", generator.random((80, 8, 8)) < 0.2)
    np.save("unseen.npy", generator.random((12, 8, 8)) < 0.2)


@pytest.mark.parametrize("validation, count", [("0.2", 16), ("unseen.npy", 12)])
def test_from_training_to_the_report(capfd, validation, count):
    assert run(*TRAIN, f"--validation={validation}", "--validation-every=4", "--steps=10", "--out=run") == 0
    said = capfd.readouterr().out
    assert f"Validation: {count} of {count} held-out images, every 4 steps" in said
    assert said.count("held out: reconstruction") == 3  # after steps 4, 8 and 10
    assert "best ELBO of the held-out images" in said
    entries = read_log(RunFolder(Path("run")).metrics)
    assert [entry.step for entry in entries if entry.validation] == [4, 8, 10]

    options = ("--checkpoint=best", "--importance-samples=1,50", "--importance-images=5", "--precision=bf16")
    assert run("evaluate", "run", *options, "--out=results") == 0
    said = capfd.readouterr().out
    assert f"On {count} images that were never trained on" in said
    assert "with 50 codes per image is -" in said and "over 5 held-out images" in said
    document = read_json(Path("results/evaluation.json"))
    assert document["step"] == open_run("run", kept="best").step
    assert document["held_out"]["images"] == count
    assert document["summary"]["images"] == (64 if validation == "0.2" else 80)
    one, fifty = document["importance_weighted"]
    assert (one["samples"], fifty["samples"], fifty["images"]) == (1, 50, 5)
    assert one["bound"] < fifty["bound"] + fifty["standard_error"] and fifty["standard_error"] > 0
    assert "never trained on" in Path("results/report.html").read_text()

    for kept in ("latest", "best"):
        assert run("encode", "run", f"--checkpoint={kept}", f"--out={kept}.npz") == 0
    step = open_run("run", kept="best").step
    with np.load("latest.npz") as latest, np.load("best.npz") as best:
        assert np.array_equal(latest["mu"], best["mu"]) == (step == 10)


def test_a_resumed_run_logs_the_same(capfd):
    options = ("--validation=0.2", "--validation-every=3", "--checkpoint-every=4", "--log-every=2")
    assert run(*TRAIN, *options, "--steps=12", "--out=whole") == 0
    assert run(*TRAIN, *options, "--steps=4", "--out=run") == 0
    assert run("train", "--resume=run", "--steps=12") == 0
    whole, resumed = (
        [
            (entry.step, entry.validation)
            for entry in read_log(RunFolder(Path(name)).metrics)
            if entry.validation and entry.step != 4  # the last step of the shorter run
        ]
        for name in ("whole", "run")
    )
    assert whole == resumed and [step for step, _ in whole] == [3, 6, 9, 12]


def test_a_run_out_of_patience_ends_well(capfd):
    options = ("--validation=0.2", "--validation-every=1", "--patience=1", "--lr=0.003")
    assert run(*TRAIN, *options, "--steps=500", "--out=run") == 0
    said = capfd.readouterr().out
    assert "out of patience after step" in said and "Pictures: run/pictures" in said
    step = open_run("run").step
    assert step < 500
    assert run("train", "--resume=run") == 0
    assert open_run("run").step == step
    assert run("train", "--resume=run", "--patience=2") == 0
    assert open_run("run").step > step


def test_a_run_without_held_out_images_has_none(capfd):
    assert run(*TRAIN, "--steps=2", "--out=run") == 0
    assert "Validation:" not in capfd.readouterr().out
    assert run("evaluate", "run", "--metrics=unsupervised") == 0
    assert "never trained on" not in capfd.readouterr().out
    assert read_json(Path("run/evaluation.json"))["held_out"] is None
    assert run("evaluate", "run", "--checkpoint=best") == 2
    assert "no best model was kept" in capfd.readouterr().err


def test_images_that_have_moved_are_a_note(capfd):
    assert run(*TRAIN, "--validation=unseen.npy", "--steps=2", "--out=run") == 0
    Path("unseen.npy").rename("moved.npy")
    assert run("evaluate", "run") == 0
    said = capfd.readouterr().out
    assert "Held-out images are not measured: no data set or file named" in said
    np.save("unseen.npy", np.ones((12, 8, 8), np.bool_))
    assert run("evaluate", "run") == 0
    assert "but the run was validated with 12 images of 1×8×8" in capfd.readouterr().out
    assert run("train", "--resume=run", "--validation=moved.npy", "--steps=3") == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--validation=1.5"], "validation must be a fraction above 0 and below 1, or a path; got 1.5"),
        (["--validation=nan"], "validation must be a fraction above 0 and below 1, or a path; got nan"),
        (["--validation=0.001"], "validation 0.001 of 80 images holds out 0 of them"),
        (["--validation=nowhere.npy"], "nowhere.npy"),
        (["--validation=0.9"], "--batch-size 16 is larger than the data set, which has 8 images to train on"),
        (["--patience=3"], "--patience is 3, so --validation must be given"),
        (["--validation=0.2", "--validation-every=0"], "--validation-every must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_one_line(capfd, arguments, message):
    assert run(*TRAIN, *arguments) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("samples", ["0", "1,,5", "many"])
def test_wrong_numbers_of_codes_are_one_line(capfd, samples):
    assert run(*TRAIN, "--steps=1", "--out=run") == 0
    capfd.readouterr()
    assert run("evaluate", "run", f"--importance-samples={samples}") == 2
    error = capfd.readouterr().err
    assert "--importance-samples must be" in error and error.count("\n") == 1


def test_a_sweep_holds_images_out(capfd):
    Path("study.toml").write_text(
        """
        data = "tiny.npy"
        architecture = "mlp"
        latent-dim = 2
        batch-size = 16
        precision = "fp32"
        validation = [0.2, "unseen.npy"]
        validation-every = 1
        patience = 1
        lr = 0.003
        steps = 200
        """
    )
    command = ("sweep", "--file=study.toml", "--metrics=unsupervised", "--jobs=1", "--out=sweep")
    assert run(*command) == 0
    assert "2/2" in capfd.readouterr().out
    for name, count in (("validation=0.2,seed=0", 16), ("validation=unseen,seed=0", 12)):
        document = json.loads(Path("sweep", name, "evaluation.json").read_text())
        assert document["held_out"]["images"] == count and document["step"] < 200
    with open("sweep/runs.csv", encoding="utf-8", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    unseen = document["held_out"]
    row = rows["validation=unseen,seed=0"]
    assert {name: float(value) for name, value in row.items() if name.startswith("held-out")} == {
        "held-out negative ELBO, nats": unseen["negative_elbo"],
        "held-out reconstruction loss, nats": unseen["reconstruction"],
        "held-out KL, nats": unseen["kl"],
    }
    assert "held-out negative ELBO, nats" in Path("sweep/report.html").read_text(encoding="utf-8")
    assert run(*command) == 0
    assert "Sweep: 2 runs, 2 finished before" in capfd.readouterr().out
