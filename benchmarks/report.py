"""Shows all result files on one page with plots: ``python -m benchmarks.report`` writes docs/benchmarks.md and pictures.

It also writes the table of GPU figures in README.md. Nothing is measured here: the page and the table contain only
figures of the result files, and a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import RESULTS, ROOT, latency, step, time_to_loss, training
from benchmarks.gpu import HEADLINES, STEP_BATCHES
from betavae_fast.bench.headline import seconds, size, times
from betavae_fast.bench.registry import Shape, entry_names, get
from betavae_fast.bench.results import Measurement, Results, load_all

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = PAGE.with_suffix("")
_HEAD = """# Benchmarks

`make report` draws this page from the files in `benchmarks/results/`. Each file gives its command, machine, versions and
commit, and has only contenders that agreed with the formula in float64. Times are medians of interleaved rounds.

- **floor**: the time divided by the time of a copy, measured in the same rounds, that moves the bytes which any
  implementation has to move from and to memory. It can be below 1 if the problem fits into a cache. The log densities op
  is bound by 2 B² (D + 1) exponentials instead.
- **eager**, **compile**: the speed-up over the textbook's formula in plain PyTorch, and over the fastest mode of
  `torch.compile` for it.
- **memory**: the most memory allocated at one time in forward and backward, including outputs and gradients but not
  inputs.
- **launches**: the number of kernels, copies and fills on a GPU.
"""
_COLOURS = ("#e07b00", "#8c8c8c", "#7a4fa3", "#1f6fb4", "#2a9d5c", "#c0392b", "#b59a00")
_ORACLE = "reference"  # slow by design, and therefore left out of the pictures
_SCALING = "latent_scaling"
README = ROOT / "README.md"
# Marks before and after the table of GPU figures.
_MARK = "<!-- gpu -->"
_UNMEASURED = "not measured yet"


def page(results: Mapping[str, Results]) -> str:
    """The text of the page, from the result files of the ops, the training step, the time to a loss and the latency."""
    parts = [_HEAD]
    for file, found in sorted(results.items(), key=lambda item: entry_names().index(item[1].op)):
        parts += _op_section(file, found)
    parts += _step_section()
    parts += _time_to_loss_section()
    parts += _latency_section()
    return "\n".join(parts).rstrip() + "\n"


def _op_section(file: str, results: Results) -> Iterator[str]:
    yield f"## {results.op}, {_machine(results.machine)}\n"
    yield f"`{results.command}` → `benchmarks/results/{file}`, torch {results.versions['torch']}, {results.date[:10]}.\n"
    yield f"![{results.op}](benchmarks/{_picture(results)})\n"
    if results.op == _SCALING:
        return
    launches = any(m.launches is not None for m in results.measurements)
    columns = ["contender", "forward", "backward", "both", "eager", "compile", "floor", "memory"]
    columns += ["launches"] if launches else []
    for (shape, dtype), rows in groupby(results.measurements, lambda m: (m.shape, m.dtype)):
        yield f"**{shape} {dtype}**\n"
        yield _row(columns)
        yield _row(("---", *["---:"] * (len(columns) - 1)))
        by_contender: dict[str, dict[str, Measurement]] = {}
        for m in rows:
            by_contender.setdefault(m.contender, {})[m.direction] = m
        for name, found in by_contender.items():
            both = found["forward+backward"]
            cells = [name, *(seconds(found[d].p50) for d in ("forward", "backward", "forward+backward"))]
            cells += [
                _times(both.speedup_over_eager),
                _times(both.speedup_over_compile),
                times(both.floor_ratio),
            ]
            cells += ["" if both.peak_bytes is None else size(both.peak_bytes)]
            cells += [str(both.launches)] if launches else []
            yield _row(cells)
        yield ""


def gpu_table(folder: Path) -> str:
    """The table of the figures that `make gpu` measures, from the result files of GPUs in ``folder``."""
    rows = [("GPU", "what", "ours", "× eager", "× torch.compile"), ("---", "---", "---:", "---:", "---:")]
    ops = [found for found in load_all(folder).values() if found.machine["gpu"]]
    for op, shapes in HEADLINES.items():
        for shape, dtype in ((s, d) for s in shapes for d in get(op).dtypes):
            what = f"{op} {shape} {dtype}, forward and backward"
            rows += [
                (
                    str(found.machine["gpu"]),
                    what,
                    f"{seconds(m.p50)} ({m.contender})",
                    _times(m.speedup_over_eager),
                    _times(m.speedup_over_compile),
                )
                for found in ops
                if found.op == op and (m := _fastest_of_ours(found, shape, dtype))
            ] or [("", what, _UNMEASURED, "", "")]
    steps = [s for s in map(step.load, sorted((folder / "step").glob("*.json"))) if s.machine["gpu"]]
    for images in STEP_BATCHES:
        what = f"training step, {images:,} images"
        rows += [
            (str(found.machine["gpu"]), what, *_step_cells(found, m))
            for found in steps
            for m in found.measurements
            if (m.contender, m.batch_size) == ("ours", images)
        ] or [("", what, _UNMEASURED, "", "")]
    trainings = [t for t in map(training.load, sorted((folder / "train").glob("*.json"))) if t.machine["gpu"]]
    for images, count in training.SPEEDS:
        what = f"`betavae-fast train`, {count:,} steps of {images:,} images"
        rows += [
            (str(found.machine["gpu"]), what, f"{speed.images_per_second:,.0f} images/s", "", "")
            for found in trainings
            for speed in found.speeds
            if (speed.batch_size, speed.steps) == (images, count)
        ] or [("", what, _UNMEASURED, "", "")]
    return "\n".join(map(_row, rows))


def _fastest_of_ours(results: Results, shape: Shape, dtype: str) -> Measurement | None:
    ours = {c.name for c in get(results.op).contenders("cuda") if c.ours} - {_ORACLE}
    found = [m for m in _both(results) if m.contender in ours and (m.shape, m.dtype) == (shape, dtype)]
    return min(found, key=lambda m: m.p50, default=None)


def _step_cells(results: step.StepResults, ours: step.StepTime) -> tuple[str, str, str]:
    compiled = [
        m.p50
        for m in results.measurements
        if m.batch_size == ours.batch_size and m.contender.startswith("compile")
    ]
    gain = times(min(compiled) / ours.p50) if compiled else ""
    return (
        f"{seconds(ours.p50)}, {ours.images_per_second:,.0f} images/s",
        times(ours.speedup_over_eager),
        gain,
    )


def with_gpu_table(text: str, folder: Path) -> str:
    """The README's ``text`` with the table between its two marks written anew."""
    before, _, after = text.split(_MARK)
    return f"{before}{_MARK}\n{gpu_table(folder)}\n{_MARK}{after}"


def _step_section() -> Iterator[str]:
    for path in sorted((RESULTS / "step").glob("*.json")):
        results = step.load(path)
        yield f"## Training step, {_machine(results.machine)}\n"
        yield f"{results.network}. `{results.command}` → `benchmarks/results/step/{path.name}`, {results.date[:10]}.\n"
        yield _row(("images", "contender", "step", "images/s", "eager"))
        yield _row(("---:", "---", "---:", "---:", "---:"))
        for m in results.measurements:
            rate = f"{m.images_per_second:,.0f}"
            yield _row((f"{m.batch_size:,}", m.contender, seconds(m.p50), rate, times(m.speedup_over_eager)))
        yield ""


def _time_to_loss_section() -> Iterator[str]:
    for path in sorted((RESULTS / "time-to-loss").glob("*.json")):
        results = time_to_loss.load(path)
        yield f"## Time to a loss, {_machine(results.machine)}\n"
        yield (
            f"{results.network}; until the mean loss of {time_to_loss.WINDOW} steps is {results.target:g} nats. "
            f"`{results.command}` → `benchmarks/results/time-to-loss/{path.name}`, {results.date[:10]}. The "
            "weights, batches and noise are the same, but rounding differences grow, so that the number of steps depends "
            "on chance; images/s does not.\n"
        )
        yield _row(("contender", "steps", "time", "images/s", "eager"))
        yield _row(("---", "---:", "---:", "---:", "---:"))
        eager = next(run for run in results.runs if run.contender == "eager")
        for run in results.runs:
            rate, gain = run.steps * results.batch_size / run.seconds, eager.seconds / run.seconds
            yield _row((run.contender, f"{run.steps:,}", f"{run.seconds:.1f} s", f"{rate:,.0f}", times(gain)))
        yield ""


def _latency_section() -> Iterator[str]:
    for path in sorted((RESULTS / "latency").glob("*.json")):
        results = latency.load(path)
        whole = results.calls[latency.PUBLIC].p50
        yield f"## A small batch, {_machine(results.machine)}\n"
        yield (
            f"Forward and backward of the latent op at {latency.SHAPE} fp32, {results.backend}: {seconds(whole)}. "
            f"`{results.command}` → `benchmarks/results/latency/{path.name}`, {results.date[:10]}:\n"
        )
        yield _row(("part", "time", "share"))
        yield _row(("---", "---:", "---:"))
        for name, time in results.parts.items():
            yield _row((name, f"{1e6 * time:.1f} µs", f"{time / whole:.0%}"))
        yield ""


def draw(results: Results) -> Figure:
    """Draw forward and backward of every problem: times as bars or, for a grid of problems, their growth as curves."""
    return _growth(results) if results.op == _SCALING else _bars(results)


def _bars(results: Results) -> Figure:
    """Draw the times over the floor, as a group of bars for each problem."""
    found = _both(results)
    problems = list(dict.fromkeys((m.shape, m.dtype) for m in found))
    contenders = _contenders(found)
    figure = Figure(figsize=(10, 0.9 + 0.16 * len(problems) * (len(contenders) + 1)), layout="constrained")
    axis = figure.subplots()
    for i, name in enumerate(contenders):
        places = {problems.index((m.shape, m.dtype)): m for m in found if m.contender == name}
        at = [p * (len(contenders) + 1) + i for p in places]
        bars = axis.barh(at, [m.floor_ratio for m in places.values()], 0.85, color=_COLOURS[i], label=name)
        axis.bar_label(bars, [seconds(m.p50) for m in places.values()], padding=2, fontsize=7)
    middle = (len(contenders) - 1) / 2
    axis.set_yticks([p * (len(contenders) + 1) + middle for p in range(len(problems))])
    axis.set_yticklabels([f"{shape} {dtype}" for shape, dtype in problems], fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("forward and backward, times the memory floor (labels: the time)")
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(contenders), frameon=False, fontsize=8)
    return figure


def _growth(results: Results) -> Figure:
    """Draw the times by batch size at a fixed number of channels, and by channels at a fixed batch size."""
    found = _both(results)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    grids = (("batch size B, at 32 channels", 0, 32), ("channels D, at 4,096 rows", 1, 4096))
    for axis, (label, varying, fixed) in zip(figure.subplots(1, 2, sharey=True), grids, strict=True):
        for i, name in enumerate(_contenders(found)):
            chosen = sorted(
                (m for m in found if m.contender == name and m.shape[1 - varying] == fixed),
                key=lambda m: m.shape,
            )
            sizes = [m.shape[varying] for m in chosen]
            axis.plot(sizes, [m.p50 for m in chosen], "o-", color=_COLOURS[i], label=name, markersize=4)
            if name == _contenders(found)[-1]:
                floor = [m.bytes / m.copy_gigabytes_per_second * 1e-9 for m in chosen]
                axis.plot(sizes, floor, "--", color="#404040", linewidth=0.8, label="floor: memory")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.grid(color="#e4e4e4", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("forward and backward, seconds")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _both(results: Results) -> list[Measurement]:
    return [m for m in results.measurements if m.direction == "forward+backward" and m.contender != _ORACLE]


def _contenders(found: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(m.contender for m in found))


def _picture(results: Results) -> str:
    return f"{results.op}-{results.machine['kind']}.png"


def _machine(machine: Mapping[str, object]) -> str:
    return str(machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else times(ratio)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    results = load_all(RESULTS)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for found in results.values():
        draw(found).savefig(PICTURES / _picture(found), dpi=110)
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(with_gpu_table(README.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    print(f"Written to {PAGE.relative_to(ROOT)} and {README.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
