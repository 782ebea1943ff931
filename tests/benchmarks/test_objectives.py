"""The runs shown in "Choose β": the table on the page agrees with their file, and each run has its picture."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import RESULTS
from benchmarks.objectives import OPTIONS, PICTURES, REFERENCE, ObjectiveResults, main, table

PAGE = PICTURES.parent / "choose-beta.md"


def test_the_page_states_what_the_file_holds() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table(ObjectiveResults.load(RESULTS / "objectives" / "objectives.json")) in page
    for name in OPTIONS.keys() - {REFERENCE}:
        assert f"(objectives/{name}.png)" in page and (PICTURES / f"{name}.png").is_file()


def test_a_short_run_is_measured_drawn_and_read_again(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "tiny.npy", tmp_path / "out"
    np.save(data, np.random.default_rng(0).random((64, 8, 8)) < 0.2)
    places = ["--out", str(out), "--pictures", str(out)]
    assert main(["--steps", "20", "--data", str(data), *places]) == 0
    results = ObjectiveResults.load(out / "objectives.json")
    assert [run.name for run in results.runs] == list(OPTIONS)
    assert all(run.step == [10, 20] for run in results.runs)
    assert main(["--draw", *places]) == 0
    output = capsys.readouterr().out
    assert output.count("--objective lagrangian --kl-limit 8") == 2
    assert f"Drawn from {out / 'objectives.json'}" in output


def test_drawing_without_a_file_is_one_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--out", str(tmp_path), "--pictures", str(tmp_path)]
    assert main(["--draw", *places]) == 1
    assert "objectives.json" in capsys.readouterr().out
    (tmp_path / "objectives.json").write_text("{}")
    assert main(["--draw", *places]) == 1
    assert "is not a result file" in capsys.readouterr().out
