"""The eager backend beside plain torch: both compute the same, and the file is read back as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import RESULTS, fallback


@pytest.fixture
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (replace(c, shapes=((4, 1, 8, 8) if "nll" in c.name else (16, 3),)) for c in fallback.CASES)
    monkeypatch.setattr(fallback, "CASES", tuple(cases))


def test_every_function_agrees_with_plain_torch_and_is_timed(
    small_cases: None, threads: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fallback.json"
    assert fallback.main(["--quick", "--threads", "1", "--out", str(out)]) == 0
    results = fallback.Fallback.load(out)
    assert [r.function for r in results.ratios] == [c.name for c in fallback.CASES]
    for r in results.ratios:
        assert r.threads == 1 and r.plain.p50 > 0 and r.ratio > 0
    assert "reparameterize_kl" in capsys.readouterr().out


def test_a_function_that_is_not_there_is_named_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        fallback.main(["--functions", "nonsense"])
    assert "there are reparameterize_kl, gaussian_kl" in capsys.readouterr().err


def test_a_committed_file_holds_every_function_at_one_and_two_threads() -> None:
    for path in (RESULTS / "fallback").glob("*.json"):
        measured = {(r.function, r.shape, r.threads) for r in fallback.Fallback.load(path).ratios}
        assert measured == {(c.name, s, n) for c in fallback.CASES for s in c.shapes for n in (1, 2)}
