"""The result file: it is complete, can be read back, and is the only source of the figures in the READMEs."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import RESULTS
from benchmarks.__main__ import main
from betavae_fast.bench import runner
from betavae_fast.bench.registry import DIRECTIONS, get, op_names
from betavae_fast.bench.results import Measurement, Results, load_all

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result(small_latent, tmp_path_factory) -> Path:
    small_latent()
    path = tmp_path_factory.mktemp("quick") / "results.json"
    assert main(["latent", "--quick", "--out", str(path)]) == 0
    return path


def test_a_quick_run_works_from_the_command_line(tmp_path):
    path = tmp_path / "results.json"
    options = ["--quick", "--shapes", "16x3", "--dtypes", "fp32", "--threads", "1", "--out", str(path)]
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "latent", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.load(path)
    assert results.machine["threads"] == 1
    contenders = {m.contender for m in results.measurements}
    assert {"eager", "distributions", "reference"} <= contenders
    assert contenders | results.parity[0].absent.keys() >= {"compile", "cpp"}
    assert len(results.measurements) == len(contenders) * len(DIRECTIONS)
    assert "--quick --shapes 16x3" in results.command and str(tmp_path) not in results.command
    assert "(16, 3) fp32 forward+backward" in done.stdout


def test_the_file_is_complete(result):
    document = json.loads(result.read_text(encoding="utf-8"))
    assert document.keys() == {f.name for f in fields(Results)}
    assert document["machine"].keys() >= {"cpu", "cores", "threads", "gpu", "driver"}
    assert document["versions"].keys() == {"python", "torch", "triton", "cuda"}
    assert document["commit"].keys() == {"revision", "dirty"}
    for row in document["measurements"]:
        assert row.keys() == {f.name for f in fields(Measurement)}


def test_derived_figures_follow_from_times(result):
    results = Results.load(result)
    rows = {(m.direction, m.contender): m for m in results.measurements}
    for (direction, _), m in rows.items():
        assert 0 < m.p20 <= m.p50 <= m.p80
        assert m.floor_ratio == pytest.approx(m.p50 / (m.bytes / (m.copy_gigabytes_per_second * 1e9)))
        assert results.speedup(m, "eager") == pytest.approx(rows[direction, "eager"].p50 / m.p50)
        assert results.speedup(m, "compile") is None  # torch.compile did not run


def test_a_file_with_a_field_too_few_or_too_many_is_refused(result, tmp_path):
    document = json.loads(result.read_text(encoding="utf-8"))
    for change in (lambda row: row.pop("p80"), lambda row: row.update(p99=1.0)):
        changed = json.loads(json.dumps(document))
        change(changed["measurements"][0])
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=r"changed.json is not a result file: .*p\d\d"):
            Results.load(path)


def test_part_of_the_configuration_does_not_overwrite_the_results(small_latent, monkeypatch, tmp_path):
    small_latent()
    monkeypatch.setattr("benchmarks.study.RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.study.ROOT", tmp_path)
    assert main(["latent", "--quick"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argument", ["--shapes=10", "--shapes=0x3", "--shapes=ax3", "--dtypes=int8", "--threads=0"]
)
def test_wrong_arguments_are_refused(argument, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["latent", argument])
    assert stop.value.code == 2 and argument.split("=")[1] in capsys.readouterr().err


def test_the_results_page_names_every_file_and_its_command():
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    for name, results in load_all(RESULTS).items():
        command = results.command.partition(" --threads")[0]  # the file holds the threads as well
        assert f"| `{results.op}-MACHINE.json` | `{command}` |" in page
        assert name == f"{results.op}-{results.machine['kind']}.json"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--contenders", "eager", "nonsense"), "no nonsense on cpu; there are eager"),
        (("--out", "/dev/null/results.json"), "argument --out: "),
        (("--base", "HEAD", "--time-limit", "3"), "--base goes with neither"),
    ],
)
def test_what_cannot_be_done_is_said_before_measuring(options, named, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.__main__.run", None)
    with pytest.raises(SystemExit) as stop:
        main(["latent", *options])
    assert stop.value.code == 2 and named in capsys.readouterr().err


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"parity": [], "measurements": []}'])
def test_what_is_no_result_file_is_not_shown(text, tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    assert main(["show", str(path)]) == 1 and main(["show", str(tmp_path / "absent")]) == 1
    printed = capsys.readouterr().out
    assert f"{path}" in printed and "Traceback" not in printed and "No such file" in printed


def test_an_interrupted_run_leaves_the_problems_it_has_measured(small_latent, monkeypatch, tmp_path, capsys):
    small_latent()
    measure = runner.measure

    def interrupted(op, shape, *settings):
        if shape == (8, 3):
            raise KeyboardInterrupt
        return measure(op, shape, *settings)

    monkeypatch.setattr(runner, "measure", interrupted)
    out = tmp_path / "results.json"
    assert main(["latent", "--quick", "--shapes", "16x3", "8x3", "4x3", "--out", str(out)]) == 130
    assert capsys.readouterr().out.splitlines()[-1].startswith("interrupted")
    results = Results.load(out)
    assert {m.shape for m in results.measurements} == {(16, 3)}
    assert set(results.left_out) == {"latent (8, 3) fp32", "latent (4, 3) fp32"}
    assert all("ended before" in why for why in results.left_out.values())


@pytest.mark.parametrize("name", op_names())
def test_slow_modes_of_the_compiler_take_part_only_if_asked_for(name):
    op = get(name)
    slow = {c.name for c in op.contenders("cuda") if c.name.startswith("compile-")}
    assert slow == {c.name for c in op.contenders("cuda") if c.on_request}
    assert not any(c.on_request for c in op.contenders("cpu"))
