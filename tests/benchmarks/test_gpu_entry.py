"""``python -m benchmarks.gpu``, as far as it can be tested without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.lines import Line
from benchmarks.processes import GRACE_SECONDS
from benchmarks.trainers import TRAINERS
from betavae_fast.bench.registry import get, op_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plans(tmp_path, monkeypatch):
    """The calls on a machine with a GPU, and the calls of a rehearsal."""
    monkeypatch.setattr("betavae_fast.bench.machine.kind", lambda device: device.type)
    monkeypatch.setattr("shutil.which", lambda tool: None)
    return {device: gpu.lines(gpu.Place(device, tmp_path / "out", tmp_path)) for device in ("cuda", "cpu")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once_with_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.startswith("No NVIDIA GPU here") and done.stdout.count("\n") == 1


def test_the_lines_of_a_call_stay_within_it(plans):
    for call, lines in plans["cuda"].items():
        assert sum(line.limit for line in lines) <= gpu.CALL_SECONDS[call]
        assert all(line.interrupted_for + GRACE_SECONDS < line.limit / 2 for line in lines)


def test_what_comes_back_of_a_call_is_at_most_eight_files(plans, tmp_path):
    out = str(tmp_path / "out")
    for lines in (found for calls in plans.values() for found in calls.values()):
        places = {p.split("=")[-1] for line in lines for p in line.command if out in p}
        assert len(places) <= 6 and all(Path(place).parent == Path(out) for place in places)
        assert {str(path) for line in lines for path in line.results} <= places


def test_a_rehearsal_has_the_same_lines_and_writes_no_results(plans, tmp_path):
    named = {d: {call: [line.name for line in found] for call, found in p.items()} for d, p in plans.items()}
    assert named["cpu"] == named["cuda"]
    kept = [place for found in plans["cpu"].values() for line in found for place in line.results.values()]
    assert kept and all(place.is_relative_to(tmp_path) for place in kept)


def test_the_contenders_that_a_gpu_is_asked_for_exist(plans):
    lines = {line.name: line.command for line in plans["cuda"]["first"]}
    measured = [op for op in op_names() if op in lines]
    assert len(measured) == 3
    for op in measured:
        command = lines[op]
        asked = command[command.index("--contenders") + 1 : command.index("--out")]
        assert {"eager", "compile"} < set(asked) <= {c.name for c in get(op).contenders("cuda")}
    assert "--contenders" not in lines["training step"] and "ours" in TRAINERS["cuda"]


def test_nothing_is_built_where_the_library_runs(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda backend: "")
    assert "runs" in gpu.build((9, 0)).missing
    monkeypatch.setattr(gpu, "missing", lambda backend: "it was not built")
    line = gpu.build((9, 0))
    assert not line.missing and line.environment["TORCH_CUDA_ARCH_LIST"] == "9.0"


def test_every_failure_is_in_the_last_lines(monkeypatch, tmp_path, capfd):
    says = "print('FAILED tests/x.py::test_a - assert 0'); print('no FAILED'); raise SystemExit(3)"
    script = {
        "first": [
            Line("wrong", (sys.executable, "-c", says), 60),
            Line("right", (sys.executable, "-c", ""), 60),
        ],
        "second": [Line("silent", (sys.executable, "-c", "raise SystemExit(4)"), 60)],
    }
    monkeypatch.setattr(gpu, "lines", lambda place: script)
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 1
    last = capfd.readouterr().out.splitlines()[-5:]
    assert last[0].endswith("failed with exit status 3") and last[1].endswith("passed")
    assert last[3:] == ["FAILED wrong: tests/x.py::test_a", "FAILED silent: failed with exit status 4"]
    assert gpu.main(["--rehearse", "--call", "second", "--out", str(tmp_path)]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {line["name"] for line in summary["lines"]} == {"wrong", "right", "silent"}


def test_a_rehearsal_on_a_busy_machine_may_take_longer(monkeypatch, tmp_path):
    slow = Line("slow", (sys.executable, "-c", "import time; time.sleep(2.5)"), 2)
    monkeypatch.setattr(gpu, "lines", lambda place: {"first": [slow], "second": []})
    monkeypatch.setattr("benchmarks.lines._LEAST_SECONDS", 1.0)
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 0
