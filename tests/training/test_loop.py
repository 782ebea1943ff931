"""The loop: it is reproducible, its metrics are right, and it has no side effects."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from betavae_fast.data import ByteImages
from betavae_fast.nn import BetaVAELoss, split_kl
from betavae_fast.objectives.options import BetaOptions
from betavae_fast.training import loop
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import read_log
from betavae_fast.training.run_folder import create_run_folder

CONFIG = TrainConfig(
    data="tiny",
    latent_dim=3,
    steps=7,
    batch_size=8,
    log_every=3,
    device="cpu",
    objective=BetaOptions(2.0),
    precision="fp32",
)
IN_ANY_PRECISION = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def run(config, dataset, path, **hooks):
    state = loop.prepare(config, dataset)
    folder = create_run_folder(config, path)
    loop.train(state, folder, **hooks)
    return state, folder


def with_(**changes) -> TrainConfig:
    return TrainConfig.from_entries(CONFIG.entries() | changes)


def without_times(folder):
    times = {"seconds": 0, "images_per_second": 0}
    return [{**asdict(entry), **times} for entry in read_log(folder.metrics)]


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


@pytest.mark.parametrize(("log_every", "lag"), [(1, 1), (3, 3), (12, 8), (20, 5)])
def test_entries_written_behind_the_device_are_the_same(dataset, tmp_path, monkeypatch, log_every, lag):
    """A GPU has steps queued while the host writes."""
    config = with_(steps=30, log_every=log_every, checkpoint_every=25)
    _, at_once = run(config, dataset, tmp_path / "a")
    monkeypatch.setattr(loop, "_runs_behind", lambda device: True)
    done, late = [0], []
    hooks = {
        "on_step": lambda step: done.append(step),
        "on_entry": lambda metrics: late.append(done[-1] - metrics.step),
    }
    _, behind = run(config, dataset, tmp_path / "b", **hooks)
    assert without_times(behind) == without_times(at_once)
    assert (max(late), late[-1]) == (lag, 0)


@IN_ANY_PRECISION
def test_the_same_seed_gives_the_same_run_bit_for_bit(dataset, tmp_path, precision):
    config = with_(precision=precision)
    first, first_folder = run(config, dataset, tmp_path / "a")
    torch.manual_seed(999)  # the state of the caller's generator must not matter
    again, again_folder = run(config, dataset, tmp_path / "b")
    assert same_weights(first, again)
    assert without_times(first_folder) == without_times(again_folder)
    other, _ = run(with_(seed=1, precision=precision), dataset, tmp_path / "c")
    assert not same_weights(first, other)


def test_logging_and_checkpoints_do_not_change_the_run(dataset, tmp_path):
    rarely, _ = run(with_(log_every=100, checkpoint_every=100), dataset, tmp_path / "a")
    often, _ = run(with_(log_every=1, checkpoint_every=1), dataset, tmp_path / "b")
    assert same_weights(rarely, often)


def test_the_callers_generator_is_left_alone(dataset, tmp_path):
    before = torch.get_rng_state()
    run(CONFIG, dataset, tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_is_adam_on_the_objective(dataset, tmp_path):
    state, _ = run(with_(steps=1), dataset, tmp_path / "run")

    by_hand = loop.prepare(CONFIG, dataset)
    images = dataset.gather(by_hand.batches.epoch(0)[0])
    out = by_hand.model(images, seed=torch.tensor([CONFIG.seed, 0]))
    BetaVAELoss(beta=2.0)(out.decoded, images, out.kl).total.backward()
    for p in by_hand.model.parameters():
        # Adam's first step: both moments are the gradient's own, bias-corrected.
        p.data -= CONFIG.lr * p.grad / (p.grad.abs() + 1e-8)
    for trained, expected in zip(state.model.parameters(), by_hand.model.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-5, atol=1e-7)


def test_metrics_are_means_over_the_interval(dataset, tmp_path):
    _, every_step = run(with_(log_every=1), dataset, tmp_path / "a")
    _, by_three = run(with_(log_every=3), dataset, tmp_path / "b")
    single, intervals = read_log(every_step.metrics), read_log(by_three.metrics)
    assert [entry.step for entry in intervals] == [3, 6, 7]  # the rest is logged at the end
    assert [entry.images for entry in intervals] == [24, 48, 56]
    for entry, steps in zip(intervals, (single[:3], single[3:6], single[6:]), strict=True):
        for name in ("loss", "reconstruction", "kl"):
            mean = sum(getattr(step, name) for step in steps) / len(steps)
            assert getattr(entry, name) == pytest.approx(mean, rel=1e-5)
    for entry in single:
        assert entry.loss == pytest.approx(entry.reconstruction + 2.0 * entry.kl, rel=1e-5)
        assert entry.kl == pytest.approx(sum(entry.kl_per_dim), rel=1e-6)
        for kl, dispersion, variance in zip(
            entry.kl_per_dim, entry.mean_dispersion, entry.variance, strict=True
        ):
            assert kl == pytest.approx(dispersion + variance, rel=1e-4, abs=1e-7)


def test_the_first_metrics_are_those_of_the_initial_model(dataset, tmp_path):
    _, folder = run(with_(steps=1), dataset, tmp_path / "run")
    state = loop.prepare(CONFIG, dataset)
    with torch.no_grad():
        mu, logvar = state.model.encode(dataset.gather(state.batches.epoch(0)[0]))
    entry = read_log(folder.metrics)[0]
    assert entry.mean_dispersion == pytest.approx(split_kl(mu, logvar).mean_dispersion.tolist(), rel=1e-5)


def test_progress_is_told_and_a_stop_is_obeyed_after_the_step(dataset, tmp_path):
    steps, entries = [], []
    state, folder = run(
        CONFIG,
        dataset,
        tmp_path / "run",
        on_step=steps.append,
        on_entry=entries.append,
        should_stop=lambda: len(steps) == 4,
    )
    assert steps == [1, 2, 3, 4]
    assert state.step == 4 and not state.finished
    assert [entry.step for entry in entries] == [3, 4]
    assert read_log(folder.metrics) == entries
    saved = load_checkpoint(folder.checkpoint)
    assert saved.step == 4
    assert not state.model.training


def test_without_a_folder_the_run_is_the_same_and_nothing_is_written(dataset, tmp_path, monkeypatch):
    expected, _ = run(CONFIG, dataset, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    state, entries = loop.prepare(CONFIG, dataset), []
    loop.train(state, None, on_entry=entries.append)
    assert same_weights(state, expected)
    assert [entry.step for entry in entries] == [3, 6, 7]
    assert not any(Path().iterdir())


def test_a_run_cut_short_can_go_on_where_it_stopped(dataset, tmp_path):
    whole, _ = run(CONFIG, dataset, tmp_path / "whole")
    state = loop.prepare(CONFIG, dataset)
    folder = create_run_folder(CONFIG, tmp_path / "parts")
    loop.train(state, folder, should_stop=lambda: state.step == 4)
    loop.train(state, folder)
    assert same_weights(whole, state)
    assert [entry.step for entry in read_log(folder.metrics)] == [3, 4, 6, 7]


def test_training_lowers_the_loss(tmp_path):
    black_or_white = (
        torch.tensor([0, 255], dtype=torch.uint8).repeat(20).view(40, 1, 1, 1).expand(40, 1, 8, 8)
    )
    dataset = ByteImages("tiny", black_or_white.contiguous(), (1, 8, 8))
    _, folder = run(with_(steps=150, log_every=10), dataset, tmp_path / "run")
    losses = [entry.loss for entry in read_log(folder.metrics)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(dataset, tmp_path):
    state = loop.prepare(with_(checkpoint_every=3, log_every=100), dataset)
    folder = create_run_folder(CONFIG, tmp_path / "run")

    def spoil(step):
        if step == 4:
            state.model.decoder.fc1.bias.data.fill_(float("nan"))

    # No log entry is due before the checkpoint.
    with pytest.raises(loop.DivergedError, match="the loss is not finite after step 6"):
        loop.train(state, folder, on_step=spoil)
    assert load_checkpoint(folder.checkpoint).step == 3


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"device": "nosuch"}, ValueError, "device 'nosuch' cannot be used"),
        ({"backend": "nosuch"}, ValueError, "got 'nosuch'"),
        ({"batch_size": 41}, ValueError, "batch_size 41"),
        ({"architecture": "vgg"}, ValueError, "got 'vgg'"),
        ({"likelihood": "poisson"}, ValueError, "got 'poisson'"),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_step(dataset, changes, error, message):
    with pytest.raises(error, match=message):
        loop.prepare(with_(**changes), dataset)


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_convolves_deterministically_unless_told_otherwise(dataset, tmp_path, deterministic):
    cudnn, seen = torch.backends.cudnn, []
    before = cudnn.deterministic, cudnn.benchmark
    look = lambda _: seen.append((cudnn.deterministic, cudnn.benchmark))
    run(with_(steps=1, deterministic=deterministic), dataset, tmp_path / "run", on_step=look)
    assert seen == [(deterministic, not deterministic)]
    assert (cudnn.deterministic, cudnn.benchmark) == before
