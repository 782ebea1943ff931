"""A study writes neither a part of its configuration nor over the figures of another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks import bias, scaling, study
from benchmarks.study import Study
from betavae_fast.bench.results import Provenance
from betavae_fast.files import read_json, write_json


@dataclass(frozen=True)
class Found(Provenance):
    number: int


def options(parser):
    parser.add_argument("--few", action="store_true")


@pytest.fixture
def counting(tmp_path, monkeypatch):
    for name in ("RESULTS", "ROOT"):
        monkeypatch.setattr(study, name, tmp_path)
    return Study(
        "benchmarks.counting",
        "Counts.",
        Found,
        "MACHINE.json",
        lambda run: iter([Found(**run.origin, number=1 if run.args.few else 2)]),
        lambda found: str(found.number),
        options,
        partial=lambda args: args.few,
        draw=lambda found: {"picture": Figure()},
    )


def written(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_a_part_is_neither_written_nor_drawn(counting, tmp_path, capsys):
    assert counting.main(["--few"]) == 0
    assert written(tmp_path) == [] and "only part of the configuration" in capsys.readouterr().out
    assert counting.main([]) == 0
    assert written(tmp_path) == [".json", ".png"]
    assert counting.main(["--few", "--out", str(tmp_path / "elsewhere")]) == 0
    assert written(tmp_path / "elsewhere") == [".json", ".png"]


def test_the_figures_of_another_machine_are_not_overwritten(counting, tmp_path, capsys):
    assert counting.main([]) == 0
    (path,) = tmp_path.glob("*.json")
    document = read_json(path)
    write_json(path, document | {"number": 7})
    assert counting.main([]) == 0 and read_json(path)["number"] == 2  # its own
    capsys.readouterr()
    theirs = document | {"machine": document["machine"] | {"cpu": "Abacus", "cores": 1000}}
    write_json(path, theirs)
    assert counting.main([]) == 1
    assert "is of another machine, Abacus with 1000 cores" in capsys.readouterr().out
    assert read_json(path) == theirs
    assert counting.main(["--few"]) == 0  # which is not written there


@pytest.mark.parametrize("module", [bias, scaling])
def test_fewer_batches_are_a_part(module):
    parser = study.parser_of("benchmarks", "")
    module.STUDY.add_options(parser)
    assert module.STUDY.partial(parser.parse_args(["--max-batch", "1024"]))
    assert not module.STUDY.partial(parser.parse_args([]))
