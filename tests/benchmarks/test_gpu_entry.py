"""``python -m benchmarks.gpu``, as far as a machine without a GPU can tell."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from betavae_fast.bench.registry import op_names
from tests import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once_with_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.startswith("No NVIDIA GPU here") and done.stdout.count("\n") == 1


def test_all_steps_together_stay_under_ten_minutes():
    steps = gpu.steps((9, 0))
    assert sum(step.limit for step in steps) < 600
    benchmarks = [f"{op} benchmark" for op in op_names()]
    assert [s.name for s in steps] == [
        *("build", "gpu tests", "memcheck", "racecheck"),
        *benchmarks,
        "training step benchmark",
    ]
    assert steps[0].environment["TORCH_CUDA_ARCH_LIST"] == "9.0"


def test_a_step_that_fails_does_not_stop_the_next(monkeypatch, capfd):
    script = [gpu.Step(str(code), (sys.executable, "-c", f"raise SystemExit({code})"), 60) for code in (3, 0)]
    monkeypatch.setattr(gpu, "steps", lambda capability: script)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert gpu.main() == 1
    summary = capfd.readouterr().out.splitlines()[-2:]
    assert summary[0].endswith("failed with exit status 3") and summary[1].endswith("passed")


def test_a_step_is_stopped_with_everything_it_started(tmp_path):
    inner = "import os, signal, sys; open(sys.argv[1], 'x').write(str(os.getpid())); signal.pause()"
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    started = tmp_path / "pid"
    for limit in (1, 10, 100, 1000):
        step = gpu.Step("endless", (sys.executable, "-c", nested, inner, str(started)), limit)
        outcome = gpu.run(step)
        assert outcome.failed and f"stopped after its {limit} s" in outcome.verdict
        if started.exists():  # A machine with other work to do may not have come so far.
            break
    deadline = time.monotonic() + PATIENCE
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(started.read_text()), 0)
            time.sleep(0.01)


def test_a_tool_that_is_not_installed_is_left_out_not_failed():
    outcome = gpu.run(gpu.Step("memcheck", ("no-such-tool",), 1, tool="no-such-tool"))
    assert not outcome.failed and "not on PATH" in outcome.verdict
