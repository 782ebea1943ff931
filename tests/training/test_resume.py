"""A run that was cut short and resumed equals a run that was never cut, bit for bit."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import get_args

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from betavae_fast.choices import Likelihood
from betavae_fast.data import ByteImages, DatasetError
from betavae_fast.training.checked_json import RunFileError
from betavae_fast.training.checkpoint import load_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import drop_entries_after, read_log
from betavae_fast.training.loop import train
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run_folder import RunFolder, create_run_folder, exclusive, read_config
from betavae_fast.training.state import prepare

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


@pytest.fixture
def dataset() -> ByteImages:
    """Images large enough for a convolution between many channels, whose weights have a memory layout to lose."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ByteImages("tiny", pixels, (3, 16, 16))


class Killed(BaseException):
    """An exception after which nothing is cleaned up."""


def train_until(killed_at, config, dataset, path):
    def die(step):
        if step == killed_at:
            raise Killed

    folder = create_run_folder(config, path)
    with pytest.raises(Killed):
        train(prepare(config, dataset), folder, on_step=die)
    return folder


def train_whole(config, dataset, path):
    state, folder = prepare(config, dataset), create_run_folder(config, path)
    train(state, folder)
    return state, folder


def go_on(folder, dataset, **changes):
    config, checkpoint = read_run(folder)
    state = resume(folder, replace(config, **changes), checkpoint, dataset)
    started_at = state.step
    train(state, folder)
    return state, started_at


def without_times(folder):
    times = {"seconds": 0, "images_per_second": 0}
    return [{**asdict(entry), **times} for entry in read_log(folder.metrics)]


def assert_same_run(state, folder, whole, whole_folder):
    for a, b in zip(state.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
        for quantity, tensor in whole.optimizer.state[b].items():
            mine = state.optimizer.state[a][quantity]
            assert torch.equal(mine, tensor)
            assert (mine.dtype, mine.device, mine.stride()) == (tensor.dtype, tensor.device, tensor.stride())
    assert without_times(folder) == without_times(whole_folder)
    files = sorted(path.name for path in folder.checkpoint.iterdir())
    assert files == sorted(path.name for path in whole_folder.checkpoint.iterdir())
    for name in files:
        assert (folder.checkpoint / name).read_bytes() == (whole_folder.checkpoint / name).read_bytes()


@pytest.mark.parametrize("likelihood", get_args(Likelihood))
@pytest.mark.parametrize("killed_at, resumed_from", [(2, 0), (3, 0), (5, 3), (6, 3)])
def test_a_killed_run_ends_as_if_it_had_not_been(dataset, tmp_path, likelihood, killed_at, resumed_from):
    config = replace(CONFIG, likelihood=likelihood)
    whole = train_whole(config, dataset, tmp_path / "whole")
    folder = train_until(killed_at, config, dataset, tmp_path / "killed")
    state, started_at = go_on(folder, dataset)
    assert started_at == resumed_from
    assert_same_run(state, folder, *whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_again_and_again_ends_the_same(dataset, tmp_path, precision):
    config = replace(CONFIG, checkpoint_every=1, precision=precision)
    whole = train_whole(config, dataset, tmp_path / "whole")
    folder = train_until(2, config, dataset, tmp_path / "killed")
    for step in (3, 4, 6):
        config, checkpoint = read_run(folder)
        state = resume(folder, config, checkpoint, dataset)
        train(state, folder, should_stop=lambda now=state, last=step: now.step == last)
    assert_same_run(*go_on(folder, dataset)[:1], folder, *whole)


def test_more_steps_than_first_told_are_those_of_a_longer_run(dataset, tmp_path):
    longer, _ = train_whole(replace(CONFIG, steps=9), dataset, tmp_path / "longer")
    _, folder = train_whole(CONFIG, dataset, tmp_path / "run")
    state, started_at = go_on(folder, dataset, steps=9)
    assert started_at == 7
    for a, b in zip(state.model.parameters(), longer.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert read_config(folder).steps == load_checkpoint(folder.checkpoint).config.steps == 9


def test_tensorboard_shows_each_step_once(dataset, tmp_path):
    folder = train_until(5, CONFIG, dataset, tmp_path / "run")
    go_on(folder, dataset)
    logs = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [event.step for event in logs.Scalars("loss")] == [2, 3, 4, 6, 7]


@pytest.mark.parametrize("killed_at", [5, 7])  # 7: everything was done except the cleaning up
def test_leftovers_of_the_killed_go(dataset, tmp_path, killed_at):
    if killed_at == 5:
        folder = train_until(5, CONFIG, dataset, tmp_path / "run")
    else:
        _, folder = train_whole(CONFIG, dataset, tmp_path / "run")
    for leftover in (
        folder.path / ".metrics.jsonl.0123456789abcdef.tmp",
        folder.checkpoint / ".model-00000006-5c21a7d0.safetensors.0123456789abcdef.tmp",
        folder.checkpoint / "model-00000006-5c21a7d0.safetensors",
    ):
        leftover.write_bytes(b"half of it")
    go_on(folder, dataset)
    assert not list(folder.path.rglob(".*"))
    assert len(list(folder.checkpoint.iterdir())) == 3


def test_a_line_cut_short_goes_and_whole_lines_stay_as_they_are(dataset, tmp_path):
    _, folder = train_whole(replace(CONFIG, log_every=1), dataset, tmp_path / "run")
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    for cut in (1, 40, len(lines[5]) - 1):
        folder.metrics.write_bytes(b"".join(lines[:5]) + lines[5][:cut])
        drop_entries_after(folder.metrics, 6)
        assert folder.metrics.read_bytes() == b"".join(lines[:5])


@pytest.mark.parametrize("damage", [b"\0\0\0\n", b"{}\n", b"[]\n", b"\n", b"[" * 100_000 + b"\n"])
def test_another_damaged_line_is_named(dataset, tmp_path, damage):
    _, folder = train_whole(replace(CONFIG, log_every=1), dataset, tmp_path / "run")
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(lines[0] + damage + lines[1])
    with pytest.raises(RunFileError, match=r"metrics\.jsonl: line 2 is damaged"):
        drop_entries_after(folder.metrics, 6)


def test_images_of_another_shape_are_refused(dataset, tmp_path):
    folder = train_until(5, CONFIG, dataset, tmp_path / "run")
    gray = ByteImages("gray", dataset.store[:, :1].contiguous(), (1, 16, 16))
    before = folder.metrics.read_bytes()
    with pytest.raises(DatasetError, match=r"40 images of 1×16×16 .*trained on 40 images of 3×16×16"):
        go_on(folder, gray)
    assert folder.metrics.read_bytes() == before


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunFileError, match=r"nowhere is not the folder of a run$"):
        read_run(RunFolder(tmp_path / "nowhere"))


def test_one_process_at_a_time(dataset, tmp_path):
    folder = create_run_folder(CONFIG, tmp_path / "run")
    with (
        exclusive(folder.path),
        pytest.raises(BlockingIOError, match="run is in use by another process"),
        exclusive(folder.path),
    ):
        pytest.fail("two processes trained at once")
    with exclusive(folder.path):
        pass
