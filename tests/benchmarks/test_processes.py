"""The processes that a benchmark starts do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import processes
from tests import PATIENCE

# A program that sets its answer to SIGTERM, reports that, and waits.
_SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGTERM, {answer})
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("answer", "status"), [("lambda *_: sys.exit(7)", 7), ("signal.SIG_IGN", -signal.SIGKILL)]
)
def test_it_is_asked_to_end_and_then_ended(answer, status, monkeypatch):
    """A build tool must be asked to end first, because killing it leaves its compilers running."""
    monkeypatch.setattr(processes, "GRACE_SECONDS", 20.0 if status == 7 else 0.1)
    script = _SCRIPT.format(answer=answer)
    with processes.started((sys.executable, "-c", script), Path.cwd(), {}, subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert process.returncode == status


def test_interrupted_tests_still_write_their_report(tmp_path):
    """pytest ends with its summary and its report if it is interrupted, but without them if it is terminated."""
    tests = "import pathlib, time\ndef test_wrong(): assert 0\ndef test_long():\n    {}; time.sleep(300)\n"
    begun, report = tmp_path / "begun", tmp_path / "report.xml"
    (tmp_path / "test_these.py").write_text(tests.format(f"pathlib.Path({str(begun)!r}).touch()"))
    options = ("-c", os.devnull, f"--rootdir={tmp_path}", "-p", "no:cacheprovider", f"--junitxml={report}")
    quiet = ("-q", "--no-header")  # so that the first F is that of the failed test
    # At the end of a session with failures, hypothesis works for a second; one such session took a minute to end.
    plain = ("-p", "no:xdist", "-p", "no:hypothesispytest")
    command = (sys.executable, "-m", "pytest", "test_these.py", *options, *quiet, *plain)
    with processes.started(command, tmp_path, {}, subprocess.PIPE, interrupted_for=PATIENCE) as process:
        assert process.stdout is not None
        while process.stdout.read(1) not in ("F", ""):  # wait for the report of test_wrong
            pass
        while process.poll() is None and not begun.exists():
            time.sleep(0.02)
    assert "test_wrong" in report.read_text()


def test_it_sees_the_environment_and_its_output_is_read(tmp_path):
    script = "import os, sys; print(os.environ['COLOUR'], os.getcwd()); sys.exit('wrong')"
    command = (sys.executable, "-c", script)
    with processes.started(command, tmp_path, {"COLOUR": "blue"}, subprocess.PIPE) as process:
        output, _ = process.communicate()
    assert sorted(output.splitlines()) == [f"blue {tmp_path}", "wrong"] and process.returncode == 1
