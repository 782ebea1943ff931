"""Held-out images are never trained on, and a run that validates is resumed bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from betavae_fast.data import ByteImages, DatasetError
from betavae_fast.training.checked_json import RunFileError, read_checked
from betavae_fast.training.checkpoint import copy_model, load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.loop import DivergedError, train
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run import new_run, resumed_run, train_run
from betavae_fast.training.run_folder import create_run_folder
from betavae_fast.training.state import prepare
from betavae_fast.training.trained_run import open_run
from betavae_fast.training.validation import BestModel, better, out_of_patience, split, validate

CONFIG = TrainConfig(
    data="tiny",
    latent_dim=3,
    steps=9,
    batch_size=8,
    lr=0.01,
    log_every=2,
    checkpoint_every=4,
    device="cpu",
    precision="fp32",
)
HELD_OUT = replace(CONFIG, validation=0.25, validation_every=3)


class Killed(BaseException):
    """An exception after which nothing is cleaned up."""


@pytest.fixture
def unseen() -> ByteImages:
    pixels = torch.randint(
        0, 256, (13, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    return ByteImages("unseen", pixels, (1, 8, 8))


def trained(config, dataset, path, unseen=None):
    state, folder = prepare(config, dataset, unseen), create_run_folder(config, path)
    train(state, folder)
    return state, folder


def without_times(folder):
    times = {"seconds": 0, "images_per_second": 0}
    return [{**asdict(entry), **times} for entry in read_log(folder.metrics)]


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_split_depends_on_the_seed_alone():
    for seed in (0, 1):
        training, held_out = split(100, 0.05, seed)
        assert (len(training), len(held_out)) == (95, 5)
        assert sorted(torch.cat([training, held_out]).tolist()) == list(range(100))
        assert torch.equal(split(100, 0.05, seed)[1], held_out)
    assert not torch.equal(split(100, 0.05, 0)[1], split(100, 0.05, 1)[1])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_without_images_is_refused(dataset, fraction):
    with pytest.raises(ValueError, match=rf"validation {fraction} of 40 images holds out (0|40) of them"):
        prepare(replace(CONFIG, validation=fraction), dataset)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan"), float("inf"), ""])
def test_a_validation_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="validation must be a fraction above 0 and below 1, or a path; got"):
        TrainConfig(validation=value)


@pytest.mark.parametrize("name", ["validation_every", "patience"])
def test_settings_of_a_validation_need_one(name):
    with pytest.raises(ValueError, match=f"{name} is 2, so validation must be given"):
        TrainConfig(**{name: 2})
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainConfig(validation=0.1, **{name: 0})


def test_a_batch_larger_than_the_rest_is_refused(dataset):
    with pytest.raises(ValueError, match="batch_size 40 is larger than the data set, which has 30 images"):
        prepare(replace(HELD_OUT, batch_size=40), dataset)
    assert prepare(replace(HELD_OUT, batch_size="auto"), dataset).config.batch_size == 16


def test_held_out_images_are_never_trained_on(dataset):
    state = prepare(replace(HELD_OUT, steps=20), dataset)
    trained_on = torch.cat([state.batches.epoch(number).flatten() for number in range(50)])
    held_out = set(state.held_out.indices.tolist())
    assert len(held_out) == 10 and not held_out & set(trained_on.tolist())
    assert len(set(trained_on.tolist())) == 30


def test_a_validation_changes_no_bit_of_the_training(dataset, unseen, tmp_path):
    """Images of another data set leave the training set alone, so the run must be that without the option."""
    plain, plain_folder = trained(CONFIG, dataset, tmp_path / "plain")
    validated, folder = trained(
        replace(CONFIG, validation="unseen", validation_every=4), dataset, tmp_path / "validated", unseen
    )
    assert same_weights(plain.model, validated.model)
    entries = without_times(folder)
    assert [entry["step"] for entry in entries if entry["validation"]] == [4, 8, 9]
    assert [{**entry, "validation": {}} for entry in entries] == without_times(plain_folder)
    assert "validation" not in plain_folder.metrics.read_text()
    assert "best" not in {path.name.split("-")[0] for path in plain_folder.checkpoint.iterdir()}
    assert plain.best is None


def test_a_version_without_validation_reads_the_files_of_a_run_without_it(dataset, tmp_path):
    """Such a version ignores settings of None and knows the entries of before alone."""
    _, folder = trained(CONFIG, dataset, tmp_path / "run")
    config = read_checked(folder.checkpoint / "latest.json")["config"]
    assert all(config[name] is None for name in ("validation", "validation_every", "patience"))
    assert set(json.loads(folder.metrics.read_text().splitlines()[0])) == {
        "step", "images", "seconds", "images_per_second", "loss", "reconstruction", "kl", "kl_per_dim",
        "mean_dispersion", "variance", "objective",
    }  # fmt: skip


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "laplace"])
def test_a_validation_is_the_formula_in_float64(dataset, likelihood):
    state = prepare(replace(HELD_OUT, likelihood=likelihood), dataset)
    found = validate(state.model, state.held_out, state.reconstruction, seed=5, precision=torch.float32)
    images = dataset.gather(state.held_out.indices.sort().values).double() / 255
    with torch.no_grad():
        out = state.model(images.float(), seed=torch.tensor([5, -1]))
    mu, logvar, decoded = out.mu.double(), out.logvar.double(), out.decoded.double()
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    normal, laplace = torch.distributions.Normal(decoded, 1.0), torch.distributions.Laplace(decoded, 1.0)
    nll = {
        "bernoulli": torch.nn.functional.binary_cross_entropy_with_logits(decoded, images, reduction="none"),
        "gaussian": -normal.log_prob(images),
        "laplace": -laplace.log_prob(images),
    }[likelihood]
    nll = nll.flatten(1).sum(1).mean()
    assert found["reconstruction"] == pytest.approx(float(nll), rel=1e-6)
    assert found["kl"] == pytest.approx(float(kl), rel=1e-5)
    assert found["elbo"] == -(found["reconstruction"] + found["kl"])


def test_the_log_and_tensorboard_have_it(dataset, tmp_path):
    _, folder = trained(HELD_OUT, dataset, tmp_path / "run")
    logged = {entry.step: entry.validation for entry in read_log(folder.metrics) if entry.validation}
    assert list(logged) == [3, 6, 9]
    logs = EventAccumulator(str(folder.tensorboard)).Reload()
    for name in ("reconstruction", "kl", "elbo"):
        shown = {event.step: event.value for event in logs.Scalars(f"validation/{name}")}
        assert shown == {step: pytest.approx(found[name], rel=1e-6) for step, found in logged.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("killed_at", [2, 5, 7, 8])
def test_a_killed_run_ends_as_if_it_had_not_been(dataset, tmp_path, killed_at, precision):
    config = replace(HELD_OUT, lr=0.05, patience=2, steps=30, precision=precision)

    def die(step):
        if step == killed_at:
            raise Killed

    whole, whole_folder = trained(config, dataset, tmp_path / "whole")
    assert killed_at < whole.step < 30  # out of patience
    folder = create_run_folder(config, tmp_path / "killed")
    with pytest.raises(Killed):
        train(prepare(config, dataset), folder, on_step=die)
    again, checkpoint = read_run(folder)
    state = resume(folder, again, checkpoint, dataset)
    train(state, folder)
    assert state.step == whole.step and same_weights(state.model, whole.model)
    assert (state.best.step, state.best.loss, state.best.later) == (
        whole.best.step,
        whole.best.loss,
        whole.best.later,
    )
    assert without_times(folder) == without_times(whole_folder)
    files = sorted(path.name for path in whole_folder.checkpoint.iterdir())
    assert files == sorted(path.name for path in folder.checkpoint.iterdir())
    for name in files:
        assert (folder.checkpoint / name).read_bytes() == (whole_folder.checkpoint / name).read_bytes()


def losses(monkeypatch, values):
    """Let validations find these losses, one after the other."""
    left = iter(values)
    monkeypatch.setattr(
        "betavae_fast.training.loop.validate",
        lambda *_, **__: {"reconstruction": 0.0, "kl": 0.0, "elbo": -next(left)},
    )


def test_patience_ends_the_run_and_the_best_model_is_kept(dataset, tmp_path, monkeypatch):
    config = replace(HELD_OUT, steps=100, validation_every=2, patience=2)
    losses(monkeypatch, [5.0, 4.0, 4.0, 4.5])
    state, folder = trained(config, dataset, tmp_path / "run")
    assert state.finished and state.step == 8
    best, latest = open_run(folder.path, kept="best"), open_run(folder.path)
    assert (best.step, latest.step) == (4, 8) and not same_weights(best.model, latest.model)
    assert same_weights(latest.model, state.model)
    # It stays finished, unless it gets more patience.
    again, checkpoint = read_run(folder)
    assert resume(folder, again, checkpoint, dataset).finished
    losses(monkeypatch, [3.0, 6.0, 6.0, 6.0])
    patient = resume(folder, replace(again, patience=3), checkpoint, dataset)
    assert not patient.finished
    train(patient, folder)
    assert (patient.step, patient.best.step) == (16, 10)


def test_the_best_model_is_that_of_its_step(dataset, tmp_path, monkeypatch):
    losses(monkeypatch, [4.0, 5.0])
    _, folder = trained(replace(HELD_OUT, steps=6), dataset, tmp_path / "run")
    losses(monkeypatch, [4.0])
    short, _ = trained(replace(HELD_OUT, steps=3), dataset, tmp_path / "short")
    assert same_weights(open_run(folder.path, kept="best").model, short.model)


def test_best_needs_a_validation(dataset, tmp_path):
    _, folder = trained(CONFIG, dataset, tmp_path / "run")
    with pytest.raises(RunFileError, match=r"latest\.json: no best model was kept"):
        open_run(folder.path, kept="best")
    _, validated = trained(HELD_OUT, dataset, tmp_path / "validated")
    copy_model(validated.checkpoint, tmp_path / "published")
    with pytest.raises(RunFileError, match="no best model was kept"):
        load_checkpoint(tmp_path / "published").build_model("best")


def test_a_damaged_best_model_is_named(dataset, tmp_path):
    _, folder = trained(HELD_OUT, dataset, tmp_path / "run")
    (best,) = folder.checkpoint.glob("best-*")
    best.write_bytes(best.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunFileError, match=rf"{best.name}: damaged"):
        load_checkpoint(folder.checkpoint)


def test_a_loss_that_is_not_finite_ends_the_run(dataset, tmp_path, monkeypatch):
    losses(monkeypatch, [float("nan")])
    with pytest.raises(DivergedError, match="the validation loss is nan after step 3"):
        trained(HELD_OUT, dataset, tmp_path / "run")


def test_only_a_lower_loss_is_better():
    model = torch.nn.Linear(1, 1)
    best = better(None, 5, 2.0, model)
    assert better(best, 10, 2.0, model)._replace(model={}) == BestModel(5, 2.0, 1, {})
    assert better(best, 10, 1.9, model)._replace(model={}) == BestModel(10, 1.9, 0, {})
    assert not out_of_patience(TrainConfig(validation=0.1), best._replace(later=1000))


@pytest.fixture
def arrays(tmp_path, dataset, unseen, monkeypatch):
    np.save(tmp_path / "images.npy", dataset.store.numpy())
    np.save(tmp_path / "unseen.npy", unseen.store.numpy())
    np.save(tmp_path / "large.npy", np.zeros((4, 1, 16, 16), np.uint8))
    monkeypatch.chdir(tmp_path)


def test_another_data_set_from_python(arrays, tmp_path):
    config = replace(CONFIG, data="images.npy", validation="unseen.npy")
    run = train_run(config, tmp_path / "run")
    dataset = run.images()
    assert run.config.validation == str(tmp_path / "unseen.npy")
    assert len(run.held_out(dataset).indices) == 13 and run.training_images(dataset) is None
    assert run.held_out(ByteImages("other", dataset.store[:20], (1, 8, 8))) is None
    assert run.history[-1].validation
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\), and .*large.npy has \(1, 16, 16\)"):
        train_run(replace(config, validation="large.npy"), tmp_path / "large")
    with pytest.raises(DatasetError, match="no data set or file named"):
        train_run(replace(config, validation="nowhere.npy"), tmp_path / "nowhere")


def test_a_resumed_run_keeps_its_held_out_images(arrays, tmp_path):
    config = replace(CONFIG, data="images.npy", validation="unseen.npy")
    train_run(config, tmp_path / "run")
    (tmp_path / "unseen.npy").rename(tmp_path / "moved.npy")
    with (
        pytest.raises(DatasetError, match="resume with their new path as --validation"),
        resumed_run(tmp_path / "run"),
    ):
        pytest.fail("validated with nothing")
    with resumed_run(tmp_path / "run", {"validation": "moved.npy", "steps": 10}) as (state, folder):
        train(state, folder)
    with (
        pytest.raises(DatasetError, match="but the run was validated with 13 images of 1×8×8"),
        resumed_run(tmp_path / "run", {"validation": "images.npy"}),
    ):
        pytest.fail("validated with other images")
    with (
        pytest.raises(
            ValueError, match=r"a resumed run keeps its validation .*moved.npy, got 0.1; only a path"
        ),
        resumed_run(tmp_path / "run", {"validation": 0.1}),
    ):
        pytest.fail("held out images that were trained on")


def test_a_fraction_is_of_the_runs_own_images_alone(arrays, tmp_path):
    with new_run(replace(HELD_OUT, data="images.npy"), tmp_path / "run") as (state, folder):
        train(state, folder)
    run, other = open_run(folder.path), open_run(folder.path, data="unseen.npy")
    assert torch.equal(run.held_out(run.images()).indices, state.held_out.indices)
    assert len(run.training_images(run.images())) == 30
    assert other.held_out(other.images()) is None and other.training_images(other.images()) is None
