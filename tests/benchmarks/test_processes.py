"""What a benchmark starts does not outlive it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import processes

# Says when it has set its answer to SIGTERM, then waits.
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
    """A build tool that is only killed leaves its compilers running."""
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 20.0 if status == 7 else 0.1)
    script = _SCRIPT.format(answer=answer)
    with processes.started((sys.executable, "-c", script), Path.cwd(), {}, subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert process.returncode == status


def test_it_sees_the_environment_and_its_output_is_read(tmp_path):
    script = "import os, sys; print(os.environ['COLOUR'], os.getcwd()); sys.exit('wrong')"
    command = (sys.executable, "-c", script)
    with processes.started(command, tmp_path, {"COLOUR": "blue"}, subprocess.PIPE) as process:
        output, _ = process.communicate()
    assert sorted(output.splitlines()) == [f"blue {tmp_path}", "wrong"] and process.returncode == 1
