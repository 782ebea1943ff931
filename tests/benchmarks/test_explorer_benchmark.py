"""benchmarks.explorer: what Chromium shows is checked before it is timed, and the file can be read back."""

from pathlib import Path

from benchmarks import explorer
from benchmarks.explorer import ExplorerResults, main
from tests.evaluation.test_explorer import needs_chromium

SHIPPED = str(Path(__file__).resolve().parents[2] / "examples" / "dsprites")


@needs_chromium
def test_the_shipped_model_is_decoded_and_timed(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert main([SHIPPED, "--frames=5", f"--out={path}"]) == 0
    results = ExplorerResults.load(path)
    assert 0 <= results.largest_difference <= explorer.TOLERANCE
    for times in (results.decoding, results.between_frames):
        assert 0 < times["p50"] <= times["p95"] <= times["max"]
    assert results.bytes_of_page < 2e6
    assert "from frame to frame" in capsys.readouterr().out


@needs_chromium
def test_other_pixels_than_torchs_are_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explorer, "TOLERANCE", 0.0)
    assert main([SHIPPED, "--frames=5", f"--out={tmp_path / 'results.json'}"]) == 1
    assert "a pixel differs from torch's by" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()


def test_without_a_browser_nothing_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explorer.shutil, "which", lambda name: None)
    assert main([SHIPPED, f"--out={tmp_path / 'results.json'}"]) == 1
    assert "Chromium is not installed" in capsys.readouterr().out
