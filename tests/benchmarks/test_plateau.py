"""The steps on the plateau of the mean image: short runs are counted, and runs that stay are the worst."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import RESULTS, ROOT, plateau
from benchmarks.plateau import RULES, PlateauResults, PlateauRun, count, main, show

ORIGIN = {"command": "", "date": "", "commit": {}, "machine": {}, "versions": {}}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one black or white square: easy to tell apart, and the mean image is grey."""
    white = np.random.default_rng(0).random((256, 1, 1)) < 0.5
    path = tmp_path_factory.mktemp("squares") / "squares.npy"
    np.save(path, np.broadcast_to(white, (256, 8, 8)))
    return path


def test_a_run_ends_when_it_has_left(squares: Path) -> None:
    shared = {
        "data": str(squares),
        "steps": 400,
        "log_every": 1,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "lr": 1e-2,
    }
    found = count(("beta", "kaiming", 3), shared)
    assert found.objective == "beta" and found.initialization == "kaiming" and found.seed == 3
    assert found.steps is not None and 1 < found.steps < 400
    assert count(("beta", "kaiming", 3), shared | {"steps": found.steps - 1}).steps is None


def test_the_command_counts_all_rules(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plateau.json"
    options = ["--data", str(squares), "--objectives", "beta", "dipvae-ii", "--seeds", "1", "--steps", "1"]
    assert main([*options, "--jobs", "1", "--out", str(file)]) == 0
    results = PlateauResults.load(file)
    assert [(run.objective, run.initialization) for run in results.runs] == [
        (objective, rule) for objective in ("beta", "dipvae-ii") for rule in RULES
    ]
    assert "over 1 (worst over 1)" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_stays_is_longer_than_all() -> None:
    found = {"torch": (320, 2000, None), "glorot": (100, 200, 300), "kaiming": (60, None, 80, None)}
    runs = [
        PlateauRun("beta", rule, seed, steps)
        for rule, counts in found.items()
        for seed, steps in enumerate(counts)
    ]
    results = PlateauResults(**ORIGIN, configuration={}, most_steps=3000, runs=tuple(runs))
    assert show(results).splitlines() == [
        "| objective | torch | glorot | kaiming |",
        "| --- | ---: | ---: | ---: |",
        "| beta | 2000 (worst over 3000) | 200 (worst 300) | over 3000 (worst over 3000) |",
    ]


def test_the_guide_states_what_the_file_holds() -> None:
    page = (ROOT / "docs" / "guides" / "recipes.md").read_text(encoding="utf-8")
    assert show(PlateauResults.load(RESULTS / "plateau" / "plateau.json")) in page


def test_every_objective_is_known() -> None:
    from betavae_fast.objectives.options import OBJECTIVES

    assert set(plateau.OBJECTIVES) <= OBJECTIVES.keys() and plateau.OPTIONS.keys() <= set(plateau.OBJECTIVES)
