"""The benchmark of a sweep's throughput and memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sweep
from benchmarks.sweep import Memory, SweepResults, Way, main, memory, show


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes from /proc")
def test_the_memory_of_all_processes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "RUNS", 2)
    monkeypatch.setattr(sweep, "_TRAINING_SECONDS", 0.5)
    np.save(tmp_path / "images.npy", np.zeros((64, 16, 16), np.uint8))
    # Each process holds torch.
    assert memory(tmp_path / "images.npy") > 2e8


def test_each_way_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "onednn_has_bf16", lambda: False)
    monkeypatch.setattr(sweep, "seconds", lambda *way: float(way[3]))
    monkeypatch.setattr(sweep, "memory", lambda data: 7)
    file = tmp_path / "sweep.json"
    assert main(["--threads", "2", "--rounds", "2", "--out", str(file)]) == 0
    results = SweepResults.load(file)
    assert results.ways == (Way("fp32", 1, 2, (1.0, 1.0)), Way("fp32", 2, 1, (2.0, 2.0)))
    assert results.memory == Memory(737_280 * 64 * 64 // 8, 7, 7)  # a bit for each pixel


def test_what_is_shown() -> None:
    ways = (
        Way("fp32", 1, 2, (30.0, 40.0, 10.0)),
        Way("fp32", 2, 1, (20.0,)),
        Way("bf16", 1, 2, (8.0,)),
        Way("bf16", 2, 1, (10.0,)),
    )
    origin = {"command": "", "date": "", "commit": {}, "machine": {}, "versions": {}}
    shown = show(SweepResults(**origin, runs=8, steps=5, ways=ways, memory=Memory(100, 3120, 3000)))
    assert "1.50 ×" in shown and "0.80 ×" in shown and "hold 1.20 times as much" in shown
