"""The comparison of the loss curves of bf16 and float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import precision
from benchmarks.precision import PrecisionResults, main, show


def test_a_short_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "LOG_EVERY", 2)
    assert main(["--steps", "4", "--seeds", "2", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    results = PrecisionResults.load(file)
    assert [(c.precision, c.seed, len(c.loss)) for c in results.curves] == [
        (p, seed, 2) for seed in range(2) for p in ("fp32", "bf16")
    ]
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1 + len(results.curves)
    assert all(abs(loss / 1e3) < 10 for curve in results.curves for loss in curve.loss)
    assert "of 2 logged steps" in capsys.readouterr().out
    assert file.with_suffix(".png").is_file()


def test_the_bands_are_those_of_the_curves() -> None:
    curves = {"fp32": ([10.0, 5.0], [20.0, 7.0]), "bf16": ([12.0, 8.0], [14.0, 9.0])}
    results = PrecisionResults(
        command="",
        date="",
        commit={},
        machine={},
        versions={},
        configuration={},
        curves=tuple(
            precision.Curve(name, seed, losses)
            for name, both in curves.items()
            for seed, losses in enumerate(both)
        ),
    )
    assert results.at_each_step("bf16") == [(12.0, 14.0), (8.0, 9.0)]
    shown = show(results)
    assert "10.0 to 20.0" in shown and "within the range of float32 at 1 of 2 logged steps" in shown
