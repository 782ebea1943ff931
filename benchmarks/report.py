"""Shows all result files on one page with plots: ``python -m benchmarks.report`` writes docs/benchmarks.md and pictures.

It also writes the tables of figures in README.md and docs/guides/kernels.md. Nothing is measured here: all these contain
only figures of the result files, and a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import RESULTS, ROOT, latency, step, time_to_loss
from benchmarks.gpu import HEADLINES, STEP_BATCHES
from benchmarks.pages import between, markdown
from benchmarks.step import StepResults
from benchmarks.study import Study, tidy
from benchmarks.training import SPEEDS, Training
from betavae_fast.bench.registry import Shape, entry_names, get
from betavae_fast.bench.results import Measurement, Provenance, Results, load_all
from betavae_fast.bench.table import both_directions, fastest_of_ours
from betavae_fast.bench.units import seconds, size, times

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
# (page, mark of its table) -> op, contender, and number of its first problems on the CPU that the table shows.
_FIGURES: dict[tuple[str, str], tuple[tuple[str, str, int], ...]] = {
    ("README.md", "latent"): (("latent", "cpp", 8),),
    ("README.md", "spatial"): tuple(
        (op, "DiagonalGaussian", 4) for op in ("spatial", "spatial_channels_last")
    ),
    ("README.md", "likelihoods"): (
        *(("bernoulli_nll", contender, 1) for contender in ("cpp-uint8", "cpp-bool")),
        *((op, "cpp-uint8", 1) for op in ("gaussian_nll", "laplace_nll")),
    ),
    ("README.md", "parts"): (("log_densities", "cpp", 2),),
    ("docs/guides/kernels.md", "floor"): (
        ("latent", "cpp", 1),
        ("bernoulli_nll", "cpp-uint8", 1),
        ("log_densities", "cpp", 1),
    ),
}
PAGES = tuple(dict.fromkeys(page for page, _ in _FIGURES))
# Title on the page -> study.
_STUDIES: dict[str, Study[Any]] = {
    "Training step": step.STUDY,
    "Time to a loss": time_to_loss.STUDY,
    "A small batch": latency.STUDY,
}


def page(results: Mapping[str, Results]) -> str:
    """The text of the page: the ops of ``results``, and the studies whose files lie in folders."""
    parts = [_HEAD]
    for file, found in sorted(results.items(), key=lambda item: entry_names().index(item[1].op)):
        parts += _op_section(file, found)
    for title, study in _STUDIES.items():
        for path in sorted((RESULTS / study.file).parent.glob("*.json")):
            found = study.results.load(path)
            parts.append(f"## {title}, {_machine(found.machine)}\n")
            parts.append(f"`{found.command}` → `{path.relative_to(ROOT)}`, {found.date[:10]}.\n")
            parts.append(f"{study.show(found)}\n")
    return "\n".join(parts).rstrip() + "\n"


def _op_section(file: str, results: Results) -> Iterator[str]:
    yield f"## {results.op}, {_machine(results.machine)}\n"
    yield f"`{results.command}` → `benchmarks/results/{file}`, torch {results.versions['torch']}, {results.date[:10]}.\n"
    yield f"![{results.op}](benchmarks/{_picture(results)})\n"
    if results.op == _SCALING:
        return
    on_gpu = any(m.launches is not None for m in results.measurements)
    columns = ["contender", "forward:", "backward:", "both:", "eager:", "compile:", "floor:", "memory:"]
    columns += ["launches:"] if on_gpu else []
    for (shape, dtype), rows in groupby(results.measurements, lambda m: (m.shape, m.dtype)):
        by_contender: dict[str, dict[str, Measurement]] = {}
        for m in rows:
            by_contender.setdefault(m.contender, {})[m.direction] = m
        yield f"**{shape} {dtype}**\n"
        yield markdown(columns, (_op_row(results, found, on_gpu) for found in by_contender.values())) + "\n"


def _op_row(results: Results, found: Mapping[str, Measurement], on_gpu: bool) -> list[str]:
    both = found["forward+backward"]
    cells = [both.contender, *(seconds(found[d].p50) for d in ("forward", "backward", "forward+backward"))]
    cells += [_times(results.speedup(both, over)) for over in ("eager", "compile")]
    cells += [times(both.floor_ratio), "" if both.peak_bytes is None else size(both.peak_bytes)]
    return cells + ([str(both.launches)] if on_gpu else [])


def gpu_table(folder: Path) -> str:
    """The table of the figures that `make gpu` measures, from the result files of GPUs in ``folder``."""
    wanted = [
        *(
            _of_op(op, shape, d)
            for op, shapes in HEADLINES.items()
            for shape in shapes
            for d in get(op).dtypes
        ),
        *map(_of_step, STEP_BATCHES),
        *(_of_training(*speed) for speed in SPEEDS),
    ]
    found: dict[str, list[tuple[str, ...]]] = {what: [] for what in wanted}
    for r in load_all(folder).values():
        for m in fastest_of_ours(r):
            cells = (f"{seconds(m.p50)} ({m.contender})", *_speedups(r.speedup, m))
            _add(found, r, _of_op(r.op, m.shape, m.dtype), *cells)
    for steps in map(StepResults.load, sorted((folder / "step").glob("*.json"))):
        for t in (t for t in steps.measurements if t.contender == "ours"):
            rate = f"{seconds(t.p50)}, {t.images_per_second:,.0f} images/s"
            _add(found, steps, _of_step(t.batch_size), rate, *_speedups(steps.speedup, t))
    for training in map(Training.load, sorted((folder / "train").glob("*.json"))):
        for s in training.speeds:
            what = _of_training(s.batch_size, s.steps)
            _add(found, training, what, f"{s.images_per_second:,.0f} images/s", "", "")
    rows = (row for what, rows in found.items() for row in rows or [("", what, "not measured yet", "", "")])
    return markdown(("GPU", "what", "ours:", "× eager:", "× torch.compile:"), rows)


def _of_op(op: str, shape: Shape, dtype: str) -> str:
    return f"{op} {shape} {dtype}, forward and backward"


def _of_step(images: int) -> str:
    return f"training step, {images:,} images"


def _of_training(images: int, steps: int) -> str:
    return f"`betavae-fast train`, {steps:,} steps of {images:,} images"


def _add(found: dict[str, list[tuple[str, ...]]], results: Provenance, what: str, *cells: str) -> None:
    if results.machine["gpu"] and what in found:
        found[what].append((str(results.machine["gpu"]), what, *cells))


def _speedups(speedup: Callable[[Any, str], float | None], measurement: object) -> tuple[str, str]:
    return _times(speedup(measurement, "eager")), _times(speedup(measurement, "compile"))


def figures(results: Mapping[str, Results], chosen: Sequence[tuple[str, str, int]]) -> str:
    """A table of forward and backward together; ``chosen`` is a value of ``_FIGURES``."""
    rows = []
    for op, contender, number in chosen:
        found = results[f"{op}-cpu.json"]
        for m in [m for m in _both(found) if m.contender == contender][:number]:
            ratios = (*_speedups(found.speedup, m), times(m.floor_ratio))
            floor = f"{size(m.bytes)} at {m.copy_gigabytes_per_second:.3g} GB/s"
            rows.append((op, str(m.shape), m.dtype, contender, seconds(m.p50), *ratios, floor))
    columns = ("op", "shape", "dtype", "ours", "time:", "× eager:", "× torch.compile:", "× floor:", "floor")
    return markdown(columns, rows)


def with_tables(page: str, results: Mapping[str, Results], folder: Path) -> str:
    """The text of a page with its tables of figures written anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for (of, mark), chosen in _FIGURES.items():
        if of == page:
            text = between(text, mark, figures(results, chosen))
    return between(text, "gpu", gpu_table(folder)) if page == "README.md" else text


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
        tidy(axis)
    figure.axes[0].set_ylabel("forward and backward, seconds")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _both(results: Results) -> list[Measurement]:
    return [m for m in both_directions(results) if m.contender != _ORACLE]


def _contenders(found: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(m.contender for m in found))


def _picture(results: Results) -> str:
    return f"{results.op}-{results.machine['kind']}.png"


def _machine(machine: Mapping[str, object]) -> str:
    return str(machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else times(ratio)


def main() -> int:
    results = load_all(RESULTS)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for found in results.values():
        draw(found).savefig(PICTURES / _picture(found), dpi=110)
    PAGE.write_text(page(results), encoding="utf-8")
    for name in PAGES:
        (ROOT / name).write_text(with_tables(name, results, RESULTS), encoding="utf-8")
    print(f"Written to {', '.join((str(PAGE.relative_to(ROOT)), *PAGES))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
