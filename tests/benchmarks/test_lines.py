"""Lines that fail, hang or are killed: the other lines run, and all results so far are on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.lines import Line, Record, run_all

ROOT = Path(__file__).resolve().parents[2]
# A program that prints its process id, then waits to be killed.
_DRIVER = """
import os, sys
from pathlib import Path
from benchmarks import gpu
from benchmarks.lines import Line
waits = "import os, time; print('I am', os.getpid(), flush=True); time.sleep(300)"
gpu.lines = lambda place: {"first": [
    Line("quick", (sys.executable, "-c", "print('done')"), 60),
    Line("slow", (sys.executable, "-c", waits), 400),
    Line("last", (sys.executable, "-c", ""), 10),
]}
gpu.machine.provenance = lambda command, device: {}
sys.exit(gpu.main(["--rehearse", "--out", sys.argv[1]]))
"""


def _python(name: str, script: str, limit: float = 60, **settings: object) -> Line:
    return Line(name, (sys.executable, "-c", script), limit, **settings)  # type: ignore[arg-type]


def _summary(folder: Path) -> dict[str, dict[str, object]]:
    return {line["name"]: line for line in json.loads((folder / "summary.json").read_text())["lines"]}


def test_a_line_is_stopped_with_everything_it_started(tmp_path):
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    endless = _python("endless", nested, limit=1)
    record = Record(tmp_path, [endless], {})
    start = time.monotonic()
    run_all([endless], record, 60)
    assert record.failed and "stopped after its 1 s" in record.text()
    assert time.monotonic() - start < 100  # the line would take 300 seconds


def test_a_tool_that_is_not_installed_is_left_out_not_failed(tmp_path):
    line = Line("memcheck", ("no-such-tool",), 60, missing="no-such-tool is not on PATH")
    record = Record(tmp_path, [line], {})
    run_all([line], record, 60)
    assert not record.failed and "left out: no-such-tool is not on PATH" in record.text()


def test_a_line_for_which_no_time_is_left_counts_as_failed(tmp_path):
    late = [_python("late", "print('ran')")]
    record = Record(tmp_path, late, {})
    run_all(late, record, seconds=1)
    assert record.failed and not record.log.exists()
    assert record.text().splitlines()[-1] == "FAILED late: left out: the 1 s of this call were over"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a kernel that ends children with their parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_call_that_is_killed_leaves_what_it_had(number, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-c", _DRIVER, str(tmp_path))
    driver = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "log.txt"
    _wait(lambda: log.exists() and "I am " in log.read_text())
    os.killpg(driver.pid, number)
    printed, _ = driver.communicate(timeout=120)
    child = int(log.read_text().split("I am ")[1].split()[0])
    _wait(lambda: not _alive(child))
    summary = _summary(tmp_path)
    assert (summary["quick"]["verdict"], summary["last"]["verdict"]) == ("passed", "not reached")
    assert summary["slow"]["verdict"] == (
        "running" if number == signal.SIGKILL else "stopped with the whole run"
    )
    if number != signal.SIGKILL:
        failed = ["FAILED slow: stopped with the whole run", "FAILED last: not reached"]
        assert driver.returncode == 1 and printed.splitlines()[-2:] == failed


def _wait(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
