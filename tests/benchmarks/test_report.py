"""The page of figures agrees with the result files, and `make bench` writes all of them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from statistics import median

import pytest

from benchmarks import RESULTS, ROOT, latency, time_to_loss
from benchmarks.all import COMMANDS
from benchmarks.encode import EncodeResults
from benchmarks.report import (
    PAGE,
    PAGES,
    PICTURES,
    draw,
    gpu_table,
    headlines,
    measured_on,
    newest_cpu,
    page,
    pictures,
    with_tables,
)
from benchmarks.step import StepResults
from benchmarks.sweep import SweepResults
from betavae_fast.bench.results import load_all
from betavae_fast.bench.timing import QUICK, Timing
from betavae_fast.bench.units import seconds, times
from betavae_fast.files import read_json

FILES = load_all(RESULTS)


def test_the_page_is_what_the_files_give():
    assert PAGE.read_text(encoding="utf-8") == page(FILES), "run `make report`"


@pytest.mark.parametrize("name", PAGES)
def test_tables_state_the_figures_of_the_files(name):
    assert (ROOT / name).read_text(encoding="utf-8") == with_tables(name, FILES, RESULTS), "run `make report`"


def test_the_sentence_on_sweeps_states_the_figures_of_the_file():
    guide = (ROOT / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")
    told = guide.partition("eight runs are done")[2].partition("sweep/cpu-amx.json")[0]
    results = SweepResults.load(RESULTS / "sweep" / "cpu-amx.json")
    ways = {(way.precision, way.jobs): median(way.seconds) for way in results.ways}
    gains = [ways[precision, 1] / ways[precision, 2] for precision in ("fp32", "bf16")]
    assert re.findall(r"\d\.\d", told) == [f"{gain:.1f}" for gain in gains]


def test_the_sentences_on_amx_state_the_figures_of_the_files():
    speed, changelog = (
        " ".join((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("docs/speed.md", "CHANGELOG.md")
    )
    step = StepResults.load(RESULTS / "step" / "cpu-amx.json")
    told = speed.partition("Intel Xeon with AMX, a step")[2].partition("cpu-amx.json")[0]
    ours = {(m.contender, m.batch_size): m for m in step.measurements if m.contender.startswith("ours")}
    for contender, images in product(("ours", "ours, bf16"), (64, 1024)):
        assert times(step.speedup(ours[contender, images], "eager")) in told
    assert all(seconds(ours["ours, bf16", images].p50) in told for images in (64, 1024))

    fastest = step.speedup(ours["ours, bf16", 1024], "eager")
    assert f"is {fastest:.1f} times as fast as plain torch's in float32" in changelog
    encoding = EncodeResults.load(RESULTS / "encode" / "cpu-amx.json").speedup("ours, bf16")
    assert f"encodes {encoding:.1f} times as fast" in changelog

    latent = FILES["latent-cpu-amx.json"]
    backward = [m for m in latent.measurements if (m.contender, m.direction) == ("cpp", "backward")]
    slower = [(m.shape[0], gain) for m in backward if (gain := latent.speedup(m, "compile")) < 1]
    assert [rows for rows, _ in slower] == 4 * [65536]
    gains = [gain for _, gain in slower]
    assert f"with {min(gains):.2f}× to {max(gains):.2f}×" in speed


def test_the_readme_has_six_speeds_of_one_machine():
    rows = headlines(FILES, RESULTS).splitlines()[2:]
    assert len(rows) == 6
    latent = FILES[f"latent-{newest_cpu(FILES)}.json"]
    ours, eager = (
        next(
            m.p50
            for m in latent.measurements
            if (m.contender, m.shape, m.dtype, m.direction)
            == (name, (65536, 128), "fp32", "forward+backward")
        )
        for name in ("cpp", "eager")
    )
    assert f"| {seconds(ours)} | {seconds(eager)} | {times(eager / ours)} |" in rows[0]


def test_a_gpu_figure_is_that_of_our_fastest(tmp_path):
    assert gpu_table(tmp_path).count("not measured yet") == gpu_table(tmp_path).count("\n") - 1
    found = FILES["latent-cpu-zen3.json"]
    both = next(
        m
        for m in found.measurements
        if (m.direction, m.dtype, m.shape) == ("forward+backward", "fp32", (64, 10))
    )
    rows = [
        replace(both, contender=name, p50=p50)
        for name, p50 in (("eager", 1e-6), ("cuda", 2e-5), ("triton", 3e-5))
    ]
    on_gpu = replace(found, machine=found.machine | {"gpu": "NVIDIA X"}, measurements=tuple(rows))
    on_gpu.save(tmp_path / "latent-nvidia-x.json")
    [line] = [line for line in gpu_table(tmp_path).splitlines() if "NVIDIA X" in line]
    assert "latent (64, 10) fp32" in line and "| 20 µs (cuda) |" in line


def test_every_picture_on_the_page_is_there():
    text = PAGE.read_text(encoding="utf-8")
    there = {path.name for path in PICTURES.glob("*.png")}
    assert there == pictures(FILES).keys() == {name for name in there if f"(benchmarks/{name})" in text}
    assert text.count("](benchmarks/") == len(there)


@pytest.mark.parametrize("name", pictures(FILES))
def test_a_picture_shows_each_contender_and_machine(name):
    machines = pictures(FILES)[name]
    figure = draw([*machines, of_another_machine(machines[0], "cpu-abacus", "2000-01-01")])
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    labels = {text.get_text() for legend in legends if legend for text in legend.get_texts()}
    assert {m.contender for found in machines for m in found.measurements} - {"reference"} <= labels
    told = " ".join(text for axis in figure.axes for text in (axis.get_title(), axis.get_ylabel()))
    assert (
        all(str(found.machine["kind"]).removeprefix("cpu-") in told for found in machines)
        and "abacus" in told
    )


def of_another_machine(results, kind, date):
    faster = tuple(replace(m, p50=m.p50 / 2) for m in results.measurements)
    return replace(results, machine=results.machine | {"kind": kind}, date=date, measurements=faster)


def test_machines_stand_side_by_side():
    found = FILES["latent-cpu-zen3.json"]
    other = of_another_machine(found, "cpu-abacus", "2000-01-01")
    text = page({"latent-cpu-abacus.json": other, "latent-cpu-zen3.json": found})
    lines = text.partition("## Training step")[0].splitlines()
    rows = [line.split(" | ")[1] for line in lines if line.startswith("| cpp | ")]
    assert rows == ["abacus", "zen3"] * len({(m.shape, m.dtype) for m in found.measurements})
    assert text.count("](benchmarks/latent-cpu.png)") == 1


def test_the_pages_show_the_cpu_measured_last_that_has_all_tables():
    shown = newest_cpu(FILES)
    later = {
        f"{found.op}-cpu-abacus.json": of_another_machine(found, "cpu-abacus", "9999-01-01")
        for found in FILES.values()
        if found.machine["kind"] == shown
    }
    assert newest_cpu({**FILES, **later}) == "cpu-abacus"
    assert "on abacus (" in measured_on({**FILES, **later})
    assert shown.removeprefix("cpu-") in measured_on({**FILES, **later}).partition("Also measured on")[2]
    del later["latent-cpu-abacus.json"]
    assert newest_cpu({**FILES, **later}) == shown
    earlier = {file: of_another_machine(f, "cpu-abacus", "1999-01-01") for file, f in later.items()}
    assert newest_cpu({**FILES, **earlier}) == shown


def test_files_are_named_after_their_machines():
    for path in RESULTS.rglob("*.json"):
        machine = read_json(path).get("machine", {}) if "cpu" in path.name else {}
        assert path.stem.endswith(machine.get("kind", "")), path


def test_all_benchmarks_write_what_is_committed():
    commands = {f"python -m {command}" for command in COMMANDS}
    found = {
        results.command.partition(" --threads")[0]  # the file holds the threads as well
        for results in FILES.values()
        if results.machine["gpu"] is None
    }
    assert found <= commands


def test_parts_of_the_latency_add_up_to_the_whole():
    names = (latency.PUBLIC, latency.FUNCTION, latency.OPERATORS, latency.EMPTY)
    calls = {name: Timing(p50, p50, p50, 1, 1) for name, p50 in zip(names, (7.0, 4.0, 2.0, 1.0), strict=True)}
    parts = latency.Latency("", "", {}, {}, {}, "cpp", calls).parts
    assert sum(parts.values()) == 7.0 and parts["kernels"] == 1.0


def test_latency_is_measured_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "Effort", lambda: QUICK)
    out = tmp_path / "latency.json"
    assert latency.main(["--out", str(out)]) == 0
    found = latency.Latency.load(out)
    assert found.command == "python -m benchmarks.latency"  # the command contains no path of this machine
    assert sum(found.parts.values()) == pytest.approx(found.calls[latency.PUBLIC].p50)


def test_a_loss_that_is_not_reached_is_an_error(monkeypatch):
    class Stuck:
        def loss_of_step(self, number):
            return 500.0

    monkeypatch.setitem(time_to_loss.TRAINERS["cpu"], "stuck", lambda batch_size, device: Stuck())
    monkeypatch.setattr(time_to_loss, "MOST_STEPS", 60)
    with pytest.raises(RuntimeError, match=r"stuck: a loss of 500.0 nats after 60 steps, not 150"):
        time_to_loss.train("stuck", "cpu", 1, 150.0)


def test_the_steps_to_a_loss_are_counted(monkeypatch):
    class Falling:
        def loss_of_step(self, number):
            return 500.0 if number < 10 else 100.0

    monkeypatch.setitem(time_to_loss.TRAINERS["cpu"], "falling", lambda batch_size, device: Falling())
    run = time_to_loss.train("falling", "cpu", 1, 100.0)
    assert (run.steps, run.loss) == (10 + time_to_loss.WINDOW, 100.0)
