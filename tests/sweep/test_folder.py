"""The runs of a sweep that are finished, and those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from betavae_fast.data import load_dataset
from betavae_fast.evaluation import report
from betavae_fast.evaluation.evaluate import evaluate
from betavae_fast.files import read_json, write_json
from betavae_fast.sweep.folder import Standing, SweepFolder, standing
from betavae_fast.sweep.grid import SweptRun, grid
from betavae_fast.sweep.report import collect
from betavae_fast.training.run import train_run
from betavae_fast.training.run_folder import RunFolder

METRICS = ("mig", "unsupervised")


@pytest.fixture(scope="module")
def swept(data: Path) -> SweptRun:
    entries = {"data": str(data), "steps": 2, "batch_size": 8, "latent_dim": 2, "architecture": "mlp"}
    (run,) = grid(entries | {"precision": "fp32", "threads": 1})
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, swept: SweptRun) -> RunFolder:
    folder = SweepFolder(tmp_path_factory.mktemp("sweep")).run(swept)
    run = train_run(swept.config, folder.path)
    report.write(run, evaluate(run.model, run.images(), METRICS))
    return folder


def longer(run: SweptRun, steps: int) -> SweptRun:
    return replace(run, config=replace(run.config, steps=steps))


def test_a_run_is_finished_when_its_last_step_is_evaluated(trained: RunFolder, swept: SweptRun) -> None:
    assert standing(trained, swept, METRICS) == Standing(2, finished=True, precision="fp32")
    assert standing(trained, longer(swept, 3), METRICS) == Standing(2, finished=False, precision="fp32")
    with pytest.raises(ValueError, match=r"holds a run with 2 steps; give the sweep another --out"):
        standing(trained, longer(swept, 1), METRICS)


def test_a_learning_rate_that_has_fallen_is_not_raised_for_more_steps(
    tmp_path: Path, swept: SweptRun
) -> None:
    """A run of 2 steps whose rate has fallen to 0 is no beginning of a run of 3."""
    cosine = replace(swept, config=replace(swept.config, lr_schedule="cosine"))
    folder = SweepFolder(tmp_path).run(cosine)
    train_run(cosine.config, folder.path)
    assert standing(folder, cosine, METRICS).step == 2
    with pytest.raises(ValueError, match=r"a learning rate that falls over 2 steps, not 3; give the sweep"):
        standing(folder, longer(cosine, 3), METRICS)


def test_a_run_that_has_not_begun_has_no_steps(tmp_path: Path, swept: SweptRun) -> None:
    assert standing(RunFolder(tmp_path / "none"), swept, METRICS) == Standing()


def test_the_path_of_the_data_may_be_relative(
    trained: RunFolder, swept: SweptRun, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    here = replace(swept, config=replace(swept.config, data=data.name))
    assert standing(trained, here, METRICS).finished


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, True),
        ({"scores": []}, False),  # evaluated by none of the metrics
        ({"format": 1}, False),  # written by an earlier version
        ({"step": 1}, False),  # evaluated before it went on
        ({"images": 32}, False),  # evaluate --images 32
        ({"seed": 3}, False),  # evaluate --seed 3
        ({"identity": {"images": 64, "image_shape": [1, 16, 16], "checksum": "0"}}, False),  # of other images
        ({"factors": {"names": ["shape"], "shares": [[0.0]]}}, False),  # mig could be computed, and was not
    ],
)
def test_an_evaluation_must_be_of_the_last_step_and_of_all_metrics(
    trained: RunFolder, swept: SweptRun, changes: dict, finished: bool
) -> None:
    with changed(trained, changes):
        assert standing(trained, swept, METRICS).finished is finished


@contextmanager
def changed(folder: RunFolder, changes: dict[str, Any]) -> Iterator[None]:
    """Change entries of evaluation.json for the duration of the block."""
    before = folder.evaluation.read_bytes()
    try:
        write_json(folder.evaluation, read_json(folder.evaluation) | changes)
        yield
    finally:
        folder.evaluation.write_bytes(before)


@pytest.mark.parametrize(
    ("result", "finished"),
    [
        ({"rows": 10_000}, True),
        ({"rows": 2000}, False),
        ({}, True),  # by a version without --dci-rows
    ],
)
def test_dci_must_be_from_as_many_rows_as_the_sweeps(
    trained: RunFolder, swept: SweptRun, result: dict, finished: bool
) -> None:
    quantities = {name: {"value": 0.5} for name in ("disentanglement", "completeness", "informativeness")}
    scores = [
        {"metric": "dci", "codes": "mean", "result": result, "values": quantities},
        *read_json(trained.evaluation)["scores"],
    ]
    with changed(trained, {"factors": {"names": ["shape"], "shares": [[0.0]]}, "scores": scores}):
        assert standing(trained, swept, ("dci", "unsupervised")).finished is finished
        # A sweep that computes no DCI keeps it, under a name of its own.
        assert standing(trained, swept, ("unsupervised",)).finished
        (found,) = collect(SweepFolder(trained.path.parent), [swept]).results
    label = "DCI completeness" if finished else "DCI completeness, 2000 rows"
    assert [name for name in found.values if name.startswith("DCI c")] == [label]


def test_a_sweep_with_factors_needs_an_evaluation_with_them(
    data: Path, tmp_path: Path, swept: SweptRun
) -> None:
    (tmp_path / "factors.csv").write_text("size\n" + "1\n2\n" * 32)
    run = replace(swept, config=replace(swept.config, factors=str(tmp_path / "factors.csv")))
    folder = SweepFolder(tmp_path).run(run)
    trained = train_run(run.config, folder.path)
    for dataset, finished in ((load_dataset(data), False), (trained.images(), True)):
        report.write(trained, evaluate(trained.model, dataset, METRICS))
        assert standing(folder, run, METRICS).finished is finished
