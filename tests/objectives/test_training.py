"""Objectives in the trainer: steps that a CUDA graph could hold, runs that resume bit for bit, and the logs."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from betavae_fast.objectives.options import make_options
from betavae_fast.training.checked_json import RunFileError
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.loop import train
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run_folder import create_run_folder, read_config
from betavae_fast.training.state import prepare
from betavae_fast.training.step import TrainStep
from tests.objectives.cases import NAMES, NEEDED
from tests.training.recording import Recording

CONFIG = TrainConfig(
    data="tiny",
    latent_dim=3,
    steps=7,
    batch_size=8,
    log_every=2,
    checkpoint_every=3,
    device="cpu",
    precision="fp32",
)
MOVING = {
    "beta": {"beta_warmup": 2, "beta_cycle": 3},
    "capacity": {"capacity_steps": 5},
    "lagrangian": {"kl_limit": 0.01, "multiplier_lr": 1.0},
    "geco": {"reconstruction_limit": 40.0, "multiplier_lr": 0.01},
}
FALLING = {
    "beta": {"beta_warmup": 0, "beta_cycle": 0, "beta_start": 16.0, "beta_hold": 1, "beta_steps": 4},
    "btcvae": {"weights_start": 16.0, "weights_hold": 1, "weights_steps": 4, "tc_start": 3.0, "tc_steps": 3},
}
STATEFUL = ("lagrangian", "geco", "factorvae")


def config(name, **changes):
    told = {"objective": name} | NEEDED.get(name, {}) | MOVING.get(name, {}) | changes
    return TrainConfig.from_entries(CONFIG.entries() | told)


def start(config, dataset):
    state = prepare(config, dataset)
    step = TrainStep(state, state.model)
    step.load_order(0)
    return state, step


def everything(state):
    tensors = list(state.model.state_dict().values()) + list(state.objective.state_dict().values())
    for optimizer in (state.optimizer, state.objective.optimizer):
        if optimizer is not None:
            tensors += [x for values in optimizer.state.values() for x in values.values()]
    return [tensor.clone() for tensor in tensors]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name, changes", [*((name, {}) for name in NAMES), *FALLING.items()])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_one_step_recorded_is_every_step(dataset, name, changes):
    eager, eager_step = start(config(name, **changes), dataset)
    replayed, replayed_step = start(config(name, **changes), dataset)
    for _ in range(2):
        eager_step()
        replayed_step()
    with Recording() as recording:
        replayed_step()
    eager_step()
    for _ in range(4):
        before = everything(eager)
        eager_step()
        recording.replay()
        assert equal(everything(eager), everything(replayed))
        assert not equal(everything(eager), before)
    assert equal(eager_step.means.read(7).values(), replayed_step.means.read(7).values())


def without_times(folder):
    return [{**asdict(entry), "seconds": 0, "images_per_second": 0} for entry in read_log(folder.metrics)]


@pytest.mark.parametrize(
    "name, changes", [*((name, {}) for name in ("beta", "capacity", *STATEFUL)), *FALLING.items()]
)
def test_three_steps_and_four_more_are_seven(dataset, tmp_path, name, changes):
    given = config(name, **changes)
    whole, whole_folder = prepare(given, dataset), create_run_folder(given, tmp_path / "whole")
    train(whole, whole_folder)
    folder = create_run_folder(given, tmp_path / "parts")
    cut = prepare(given, dataset)
    train(cut, folder, should_stop=lambda: cut.step == 3)
    told, checkpoint = read_run(folder)
    assert (told, checkpoint.step) == (given, 3)
    assert bool(checkpoint.objective) == (name in STATEFUL)
    state = resume(folder, told, checkpoint, dataset)
    assert equal(everything(state), everything(cut))
    train(state, folder)
    assert equal(everything(state), everything(whole))
    assert without_times(folder)[-2:] == without_times(whole_folder)[-2:]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_read_as_it_was_written(tmp_path, name):
    folder = create_run_folder(config(name), tmp_path / "run")
    assert read_config(folder) == config(name)


def test_a_multiplier_moves_with_the_batch_and_is_logged(dataset, tmp_path):
    told = config("lagrangian", log_every=1, accumulate=2)
    state, folder = prepare(told, dataset), create_run_folder(told, tmp_path / "run")
    train(state, folder)
    entries, multiplier = read_log(folder.metrics), 1.0
    for entry in entries:
        assert entry.objective["multiplier"] == pytest.approx(multiplier, rel=1e-5)
        assert entry.objective["slackness"] == pytest.approx(
            multiplier * (entry.kl - 0.01), rel=1e-4, abs=1e-8
        )
        assert entry.loss == pytest.approx(entry.reconstruction + entry.objective["slackness"], rel=1e-5)
        multiplier = max(0.0, multiplier + (entry.kl - 0.01))
    assert float(state.objective.multiplier) == pytest.approx(multiplier, rel=1e-5) != 1
    logs = EventAccumulator(str(folder.tensorboard)).Reload()
    shown = [event.value for event in logs.Scalars("objective/multiplier")]
    assert shown == pytest.approx([entry.objective["multiplier"] for entry in entries])


@pytest.mark.parametrize(
    "name, changes",
    [
        *((name, {}) for name in ("lagrangian", "geco", "beta", "beta-per-dim")),
        ("beta", FALLING["beta"]),
    ],
)
def test_parts_of_a_batch_add_up_to_the_batch(dataset, name, changes):
    whole, whole_step = start(config(name, **changes), dataset)
    parts, parts_step = start(config(name, accumulate=4, **changes), dataset)
    for _ in range(2):
        whole_step()
        parts_step()
    for a, b in zip(everything(whole), everything(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    a, b = whole_step.means.read(2), parts_step.means.read(8)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_the_callers_generator_is_left_alone(dataset):
    before = torch.get_rng_state()
    _, step = start(config("factorvae"), dataset)
    step()
    assert torch.equal(before, torch.get_rng_state())


def test_the_state_of_another_objective_is_refused(dataset, tmp_path):
    folder = create_run_folder(config("lagrangian"), tmp_path / "run")
    train(prepare(config("lagrangian"), dataset), folder)
    told, checkpoint = read_run(folder)
    for name in ("beta", "geco"):
        with pytest.raises(RunFileError, match=r"latest\.json: has .* tensor"):
            resume(
                folder,
                replace(told, objective=make_options(name, NEEDED.get(name, {}))),
                checkpoint,
                dataset,
            )


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_to_the_objectives_state_is_named(dataset, tmp_path, damage):
    folder = create_run_folder(config("lagrangian"), tmp_path / "run")
    train(prepare(config("lagrangian"), dataset), folder)
    (path,) = folder.checkpoint.glob("objective-00000007-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content) if damage == "flip" else path.unlink()
    with pytest.raises(RunFileError, match=path.name):
        load_checkpoint(folder.checkpoint)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "gamma"}, "objective must be one of beta, capacity.*; got 'gamma'"),
        (
            {"objective": "capacity", "beta": 3.0},
            "beta is an option of objective beta, not of objective capacity, which has capacity, .*",
        ),
        ({"free_bits": 0.5}, "free_bits is an option of objective free-bits, not of objective beta.*"),
        ({"objective": "lagrangian"}, "objective lagrangian needs kl_limit"),
        (
            {"objective": "beta-per-dim", "latent_dim": 3, "betas": [1.0, 2.0]},
            "betas must have one weight for each of 3 latent dims, got 2",
        ),
        ({"beta_cycle": -1}, "beta_cycle must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        given = {name: value for name, value in changes.items() if name not in ("objective", "latent_dim")}
        options = make_options(changes.get("objective", "beta"), given)
        TrainConfig(objective=options, latent_dim=changes.get("latent_dim", 10))


@pytest.mark.parametrize(
    "name, options",
    [
        ("factorvae", {"tc_weight": 0.0}),
        ("dipvae-i", {"off_diagonal_weight": 0.0, "diagonal_weight": 0.0}),
        ("free-bits", {"free_bits": 0.0}),
        ("beta-per-dim", {"betas": [1.0] * 3}),
        ("lagrangian", {"kl_limit": 0.5, "multiplier_lr": 1e-30}),
    ],
)
def test_where_objectives_are_the_elbo_they_train_alike(dataset, name, options):
    elbo, elbo_step = start(config("beta", beta=1.0, beta_warmup=0, beta_cycle=0), dataset)
    other, other_step = start(config(name, **options), dataset)
    for _ in range(3):
        elbo_step()
        other_step()
    for a, b in zip(elbo.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["beta", "btcvae"])
def test_a_weight_may_be_changed_between_steps(dataset, name):
    """In a training loop of one's own; the total and the logged weight follow."""
    _, step = start(config(name, beta_warmup=0, beta_cycle=0) if name == "beta" else config(name), dataset)
    objective = step._state.objective
    step()
    before = step.means.read(1)
    objective.beta = 0.0
    step()
    after = step.means.read(1)
    kl = after["kl_per_dim"].sum() if name == "beta" else after["total_correlation"]
    other = 0 if name == "beta" else after["mutual_information"] + after["dimension_wise_kl"]
    torch.testing.assert_close(after["loss"], after["reconstruction"] + other, rtol=1e-5, atol=1e-4)
    assert kl.abs() > 1e-4
    if name == "beta":
        assert (float(before["beta"]), float(after["beta"])) == (4.0, 0.0)
