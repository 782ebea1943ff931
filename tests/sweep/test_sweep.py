"""A sweep as a whole, from the command line: finished once, it is what it would have been without interruptions.

BETAVAE_FAST_KILLS sets the number of moments at which the sweep, or one of the processes that train its runs, is killed.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import betavae_fast
from betavae_fast.training.run_folder import exclusive
from tests import PATIENCE, commands
from tests.sweep import assert_the_same, children, command, options, run

KILLS = int(os.environ.get("BETAVAE_FAST_KILLS", "2"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "sweep"
    done = run(options(data), out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished  loss") == 4
    assert "Forecast: " in done.stdout and "were foretold" in done.stdout
    assert f"Report: {out / 'report.html'}" in done.stdout
    return out


def test_a_sweep_leaves_runs_a_table_and_a_report(undisturbed: Path) -> None:
    with open(undisturbed / "runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [
        f"lr={lr},beta={beta},seed=0" for lr in ("0.001", "0.002") for beta in (1, 4)
    ]
    assert all(float(row["reconstruction loss, nats"]) > 0 and row["UDR"] for row in rows)
    assert (undisturbed / "against-setting.png").is_file()
    page = (undisturbed / "report.html").read_text(encoding="utf-8")
    assert (
        "Each run took 30 steps of 8 images of images.npy (burgess with 3 channels, bernoulli) in fp32."
        in page
    )
    for row in rows:
        link = row["run"].replace("=", "%3D").replace(",", "%2C") + "/report.html"
        assert link in page
        assert (undisturbed / row["run"] / "report.html").is_file()


def in_process(arguments: list[str], out: Path) -> int | str | None:
    """The exit status of the sweep that `run` starts as a program of its own."""
    return commands.run("sweep", *arguments, f"--out={out}")


def test_the_same_command_trains_nothing_again(
    undisturbed: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("*/checkpoint/*")}
    assert in_process(options(data), undisturbed) == 0
    assert "4 finished before" in capfd.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.glob("*/checkpoint/*")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--batch-size=4"], "holds a run with --batch-size 8; give the sweep another --out"),
        (["--steps=20"], "holds a run with 30 steps; give the sweep another --out"),
        (["--data=nowhere.npy"], "nowhere.npy"),
        (["--jobs=0"], "jobs must be at least 1, got 0"),
        (["--device=tpu"], "tpu"),
    ],
)
def test_what_cannot_be_swept_is_named_before_anything_trains(
    undisturbed: Path,
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    out = undisturbed if "holds" in message else tmp_path / "sweep"
    assert in_process([*options(data), *changes], out) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("betavae-fast: ") == 1
    assert not list(tmp_path.glob("sweep/*"))


def test_a_folder_has_one_sweep_at_a_time(
    undisturbed: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with exclusive(undisturbed):
        assert in_process(options(data), undisturbed) == 2
    assert f"{undisturbed} is in use by another process" in capfd.readouterr().err


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks into the current folder")
def test_its_processes_import_this_package_also_beside_a_checkout(tmp_path: Path) -> None:
    """The checkout may be another version, and nothing may have been built in it."""
    (tmp_path / "checkout" / "betavae_fast").mkdir(parents=True)
    (tmp_path / "checkout" / "betavae_fast" / "__init__.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(
        "import betavae_fast\n"
        "from betavae_fast.sweep.local import _processes\n"
        "def where(connection):\n"
        "    connection.send(betavae_fast.__file__)\n"
        "if __name__ == '__main__':\n"
        "    ours, theirs = _processes().Pipe()\n"
        "    process = _processes().Process(target=where, args=(theirs,))\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print(ours.recv() if ours.poll() else 'nothing')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "checkout",
        env=os.environ | {"PYTHONPATH": str(Path(betavae_fast.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip() == betavae_fast.__file__, done.stderr


def test_a_killed_sweep_goes_on_to_the_same_end(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    generator, out = random.Random(0), tmp_path / "sweep"
    for kill in range(KILLS):
        sweep = subprocess.Popen(command(options(data), out), stdout=subprocess.DEVNULL)
        time.sleep(generator.uniform(2, 12))
        victims = [sweep.pid] if kill % 2 == 0 else children(sweep.pid)
        for victim in generator.sample(victims, min(1, len(victims))):
            os.kill(victim, signal.SIGKILL)
        if victims == [sweep.pid]:
            sweep.wait()
        else:
            assert sweep.wait(timeout=4 * PATIENCE) in (0, 1)
    done = run(options(data), out)
    assert done.returncode == 0, done.stderr
    assert_the_same(undisturbed, out)


def test_ctrl_c_saves_the_runs_that_go_on(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = [argument.replace("steps=30", "steps=100000") for argument in options(data)]
    sweep = subprocess.Popen(
        command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + PATIENCE
    while not list(out.glob("*/checkpoint/latest.json")):
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130 and "4 runs are not finished; the same command goes on" in said
