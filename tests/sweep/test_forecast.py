"""The forecast of a sweep's time, and the precision that its runs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from betavae_fast.sweep.folder import Standing
from betavae_fast.sweep.forecast import Timing, forecast, measure
from betavae_fast.sweep.grid import SweptRun, grid
from betavae_fast.sweep.local import SharedImages, time_locally
from betavae_fast.training.config import TrainConfig

TIMING = Timing("bf16", "measured", step=0.5, encoding=2.0)


def new(runs: list[SweptRun]) -> dict[str, Standing]:
    return {run.name: Standing() for run in runs}


class Clock:
    """Stands for the measurement. Holds the configurations that were timed."""

    def __init__(self) -> None:
        self.timed: list[TrainConfig] = []

    def __call__(self, config: TrainConfig) -> Timing:
        self.timed.append(config)
        return TIMING if config.precision == "auto" else TIMING._replace(precision=config.precision)


def test_each_kind_of_run_is_timed_once() -> None:
    clock = Clock()
    runs = grid({"objective": ["beta", "capacity"], "beta": [1.0, 2.0], "seed": [0, 1]})
    settled, timings = measure(runs, new(runs), clock)
    assert [(config.objective.objective, config.precision) for config in clock.timed] == [
        ("beta", "auto"),
        ("capacity", "bf16"),  # the network is known
    ]
    assert [run.name for run in settled] == [run.name for run in runs] == list(timings)
    assert all(run.config.precision == "bf16" for run in settled)


def test_runs_take_the_precision_of_a_run_that_has_begun() -> None:
    clock = Clock()
    runs = grid({"beta": [1.0, 2.0], "latent_dim": [5, 7]})
    standings = new(runs) | {runs[1].name: Standing(3, precision="fp32")}
    settled, _ = measure(runs, standings, clock)
    assert {run.config.latent_dim: run.config.precision for run in settled} == {5: "bf16", 7: "fp32"}
    assert [config.precision for config in clock.timed] == ["auto", "fp32"]


def test_a_precision_that_is_given_stays() -> None:
    clock = Clock()
    runs = grid({"precision": ["fp32", "bf16"]})
    settled, timings = measure(runs, new(runs), clock)
    assert [run.config.precision for run in settled] == ["fp32", "bf16"]
    assert [timings[run.name].precision for run in runs] == ["fp32", "bf16"]


def test_runs_begin_in_order_where_a_place_becomes_free() -> None:
    runs = grid({"steps": [2, 10, 4, 6]})
    timings = {run.name: TIMING for run in runs}
    standings = new(runs) | {runs[1].name: Standing(6)}
    # 3 and 4 s, then 4 s after the first and 5 s after the second.
    assert forecast(runs, standings, timings, places=2) == 9
    assert forecast(runs, standings, timings, places=1) == 16
    del timings[runs[2].name]
    assert forecast(runs, standings, timings, places=1) is None


def test_steps_are_timed_in_processes(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((32, 16, 16), np.uint8))
    runs = grid({"data": str(tmp_path / "images.npy"), "batch_size": 4, "threads": 1})
    images = SharedImages([run.config for run in runs])
    settled, timings = measure(
        runs, new(runs), lambda config: time_locally(config, images, devices=["cpu", "cpu"])
    )
    (timing,) = timings.values()
    assert 0 < timing.step < 10 and 0 < timing.encoding < 10
    assert settled[0].config.precision == timing.precision != "auto"


def test_a_run_that_fails_is_not_timed(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((32, 10, 10), np.uint8))  # burgess needs a power of two
    runs = grid({"data": str(tmp_path / "images.npy"), "batch_size": 4})
    images = SharedImages([run.config for run in runs])
    settled, timings = measure(runs, new(runs), lambda config: time_locally(config, images, devices=["cpu"]))
    assert settled == runs and not timings
