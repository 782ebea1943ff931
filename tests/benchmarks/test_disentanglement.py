"""The study of disentanglement: finished sweeps become one file, from which its table and pictures are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import RESULTS, ROOT
from benchmarks.disentanglement import (
    OF_THE_PAGE,
    PICTURES,
    PLATEAU,
    DisentanglementResults,
    StudyRun,
    from_log,
    groups,
    main,
    pictures,
    table,
)
from betavae_fast import cli
from betavae_fast.cli.sweep import _read
from betavae_fast.sweep.grid import grid
from betavae_fast.training.log import LogEntry

ORIGIN = {"command": "", "date": "", "commit": {}, "machine": {}, "versions": {}}


def study_run(setting: dict, seed: int, **values: float) -> StudyRun:
    name = f"{setting['objective']} {setting.get('beta')} {seed}"
    return StudyRun(name, setting, seed, "fp32", "cpu", values)


def beta(value: float, rule: str = "torch") -> dict:
    return {"objective": "beta", "beta": value, "beta_warmup": 0, "beta_start": None, "initialization": rule}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished parts of a sweep, and a sweep of other steps."""
    folder = tmp_path_factory.mktemp("sweeps")
    np.save(folder / "tiny.npy", np.random.default_rng(0).random((64, 8, 8)) < 0.2)
    common = [
        "--data",
        str(folder / "tiny.npy"),
        "--latent-dim",
        "2",
        "--metrics",
        "unsupervised",
        "--precision",
        "fp32",
    ]
    for name, options in {
        "beta": ["--beta", "1,4", "--steps", "2"],
        "dip": ["--objective", "dipvae-ii", "--seed", "3", "--steps", "2"],
        "longer": ["--beta", "2", "--steps", "3"],
    }.items():
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", *common, *options, "--out", str(folder / name)])
        assert ended.value.code in (None, 0)
    return folder


def test_sweeps_become_one_file(sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--out", str(tmp_path), "--pictures", str(tmp_path)]
    assert main([str(sweeps / "dip"), *places]) == 0
    assert (
        main([str(sweeps / "beta"), str(sweeps / "dip"), *places]) == 0
    )  # the second time nothing is doubled
    results = DisentanglementResults.load(tmp_path / "disentanglement.json")
    assert [group.name for group in groups(results.runs)] == ["beta, β = 1", "beta, β = 4", "dipvae-ii"]
    assert [run.seed for run in results.runs] == [0, 0, 3]
    assert all(run.values["KL, nats"] >= 0 and PLATEAU in run.values for run in results.runs)
    assert ["UDR" in run.values for run in results.runs] == [True, True, False]  # one run has no peers
    assert results.configuration["steps"] == 2 and results.configuration["latent_dim"] == 2
    assert "objective" not in results.configuration and "beta" not in results.configuration
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "reconstruction-kl.png",
        "scores-beta.png",
        "udr-mig.png",
    }
    capsys.readouterr()
    assert main(["--draw", *places]) == 0
    assert "beta, β = 4" in capsys.readouterr().out


def test_results_elsewhere_have_their_pictures_beside_them(sweeps: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    before = {path: path.stat().st_mtime_ns for path in PICTURES.glob("*")}
    assert main([str(sweeps / "beta"), "--out", str(out)]) == 0
    assert {path.suffix for path in out.iterdir()} == {".json", ".png"}
    assert {path: path.stat().st_mtime_ns for path in PICTURES.glob("*")} == before


def test_a_run_replaces_an_earlier_one_whatever_its_name(sweeps: Path, tmp_path: Path) -> None:
    places = ["--out", str(tmp_path), "--pictures", str(tmp_path)]
    assert main([str(sweeps / "dip"), *places]) == 0
    file = tmp_path / "disentanglement.json"
    file.write_text(
        file.read_text().replace(", fp32", "").replace(", bf16", "")
    )  # as older versions named runs
    assert main([str(sweeps / "dip"), *places]) == 0
    assert len(DisentanglementResults.load(file).runs) == 1


def test_runs_of_another_experiment_are_refused(
    sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweeps / "beta"), str(sweeps / "longer"), "--out", str(tmp_path)]) == 1
    assert "runs of one study have the same steps, got 2 and 3" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main([str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "is not the folder of a finished sweep" in capsys.readouterr().out


def test_a_single_run_is_added_after_its_evaluation(
    sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(path for path in (sweeps / "beta").iterdir() if path.is_dir())
    assert main([str(run), "--out", str(tmp_path)]) == 0
    (found,) = DisentanglementResults.load(tmp_path / "disentanglement.json").runs
    assert main([str(sweeps / "beta"), "--out", str(tmp_path)]) == 0
    runs = DisentanglementResults.load(tmp_path / "disentanglement.json").runs
    again = next(one for one in runs if one.setting == found.setting)
    assert len(runs) == 2 and again.values == found.values | {
        "UDR": again.values["UDR"]
    }  # a single run has no peers
    capsys.readouterr()
    assert main([str(run / "checkpoint"), "--out", str(tmp_path / "new")]) == 1
    assert "is not the folder of a finished sweep or an evaluated run" in capsys.readouterr().out


def test_settings_are_summarised_by_medians_and_quartiles() -> None:
    objective = {
        "objective": "btcvae",
        "tc_weight": 6.0,
        "dimension_wise_weight": 2.0,
        "initialization": "torch",
    }
    runs = [
        *(study_run(beta(16.0), seed, MIG=mig) for seed, mig in enumerate((0.1, 0.2, 0.5))),
        *(study_run(beta(2.0), seed, MIG=0.3) for seed in range(2)),
        study_run(objective, 0, MIG=0.4),
    ]
    results = DisentanglementResults(**ORIGIN, configuration={}, runs=tuple(runs))
    shown = table(results).splitlines()
    assert shown[0] == "| setting | seeds | MIG |"
    assert shown[2:] == [
        "| beta, β = 2 | 2 | 0.30 (0.30–0.30) |",
        "| beta, β = 16 | 3 | 0.20 (0.15–0.35) |",
        "| btcvae | 1 | 0.40 |",
    ]
    other = objective | {"dimension_wise_weight": 1.0}
    names = [group.name for group in groups([study_run(objective, 0), study_run(other, 0)])]
    assert names == ["btcvae, dimension wise weight = 1", "btcvae, dimension wise weight = 2"]


def test_precisions_have_groups_of_their_own() -> None:
    one = study_run(beta(4.0), 0, MIG=0.1)
    other = replace(one, name="other", precision="bf16")
    assert [group.name for group in groups([one])] == ["beta, β = 4"]
    assert [group.name for group in groups([one, other])] == ["beta, β = 4, fp32", "beta, β = 4, bf16"]


def test_a_run_that_stays_on_the_plateau_is_the_worst() -> None:
    runs = [
        *(
            study_run(beta(4.0), seed, **{PLATEAU: steps})
            for seed, steps in enumerate((300, 320, float("inf")))
        ),
        *(study_run(beta(4.0, "kaiming"), seed, **{PLATEAU: 60}) for seed in range(3)),
    ]
    results = DisentanglementResults(**ORIGIN, configuration={}, runs=tuple(runs))
    assert table(results).splitlines()[2:] == [
        "| beta, β = 4, initialization = torch | 3 | 320 (worst inf) |",
        "| beta, β = 4, initialization = kaiming | 3 | 60 (worst 60) |",
    ]


def test_the_log_tells_when_the_plateau_was_left() -> None:
    def entry(step: int, reconstruction: float) -> LogEntry:
        return LogEntry(step, 0, 0, 0, 0, reconstruction, 0, [], [], [], {})

    log = [entry(980, 500.0), entry(1000, 410.0), entry(1020, 390.0), entry(2000, 90.0)]
    found = from_log(log, mean_image=500.0)
    assert found == {
        PLATEAU: 1020.0,
        "reconstruction loss, nats, after 1000 steps": 410.0,
        "reconstruction loss, nats, after 2000 steps": 90.0,
    }
    assert from_log(log[:2], mean_image=500.0)[PLATEAU] == float("inf")
    assert from_log([entry(0, 40.0)], mean_image=500.0) == {}  # imported weights


def test_pictures_show_every_run() -> None:
    runs = [
        study_run(beta(value), seed, **{"MIG": 0.1 * value, "UDR": 0.2, "DCI disentanglement": 0.3})
        for value in (1.0, 2.0)
        for seed in range(3)
    ]
    drawn = pictures(DisentanglementResults(**ORIGIN, configuration={}, runs=tuple(runs)))
    points = [
        sum(len(collection.get_offsets()) for collection in axis.collections if len(collection.get_offsets()))
        for name in ("udr-mig", "scores-beta")
        for axis in drawn[name].axes
    ]
    assert points[0] == 6
    assert not drawn["reconstruction-kl"].axes[0].collections  # these runs have neither


@pytest.mark.parametrize("folder", ["disentanglement", "published", "protocols", "recipe", "initialization"])
def test_the_page_shows_the_committed_results(folder: str) -> None:
    page = (ROOT / "docs" / "disentanglement.md").read_text()
    results = DisentanglementResults.load(RESULTS / folder / "disentanglement.json")
    assert table(results, OF_THE_PAGE) in page


def test_the_sweep_of_the_study_has_five_seeds_of_each_setting() -> None:
    runs = grid(_read(ROOT / "benchmarks" / "disentanglement.toml"))
    settings = [tuple(one.setting.values()) for one in runs[::5]]
    assert settings == [
        *(("beta", value) for value in (1.0, 2.0, 4.0, 8.0, 16.0)),
        *((name,) for name in ("btcvae", "factorvae", "capacity", "dipvae-i", "dipvae-ii")),
    ]
    assert [one.config.seed for one in runs] == list(range(5)) * 10


def test_the_runs_of_other_initial_weights_are_those_of_the_study_but_for_their_weights() -> None:
    study, others = (
        [one.config for one in grid(_read(ROOT / "benchmarks" / f"{name}.toml"))]
        for name in ("disentanglement", "initialization")
    )
    assert {config.initialization for config in study} == {"kaiming"}
    for rule in ("torch", "glorot"):
        of_rule = [
            replace(config, initialization="kaiming") for config in others if config.initialization == rule
        ]
        assert len(of_rule) == 6 * 5 and all(config in study for config in of_rule)
