"""Shows all result files on one page with plots: ``python -m benchmarks.report`` writes docs/benchmarks.md and pictures.

It also writes the tables of figures in README.md, docs/speed.md and docs/guides/kernels.md. Nothing is measured here: all
these contain only figures of the result files, and a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import (
    RESULTS,
    ROOT,
    busy,
    encode,
    floors,
    latency,
    precision,
    scaling,
    step,
    sweep,
    time_to_loss,
)
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
- **machine**: its GPU, or for a CPU its microarchitecture (Zen 2 to 5) or widest instruction set (amx, avx512, avx2).
- **launches**: the number of kernels, copies and fills on a GPU.
"""
_COLOURS = ("#e07b00", "#8c8c8c", "#7a4fa3", "#1f6fb4", "#2a9d5c", "#c0392b", "#b59a00")
_ORACLE = "reference"  # slow by design, and therefore left out of the pictures
_SCALING = "latent_scaling"
_README, _SPEED = "README.md", "docs/speed.md"
# (page, mark of its table) -> op, contender, and number of its first problems on the CPU that the table shows.
_FIGURES: dict[tuple[str, str], tuple[tuple[str, str, int], ...]] = {
    (_SPEED, "latent"): (("latent", "cpp", 8),),
    (_SPEED, "spatial"): tuple((op, "DiagonalGaussian", 4) for op in ("spatial", "spatial_channels_last")),
    (_SPEED, "likelihoods"): (
        *(("bernoulli_nll", contender, 1) for contender in ("cpp-uint8", "cpp-bool")),
        *((op, "cpp-uint8", 1) for op in ("gaussian_nll", "laplace_nll")),
    ),
    (_SPEED, "parts"): (("log_densities", "cpp", 2),),
    ("docs/guides/kernels.md", "floor"): (
        ("latent", "cpp", 1),
        ("bernoulli_nll", "cpp-uint8", 1),
        ("log_densities", "cpp", 1),
    ),
}
PAGES = (_README, *dict.fromkeys(page for page, _ in _FIGURES))
# Name in the README -> op, contender and shape of what its table shows; the steps of training come after these.
_HEADLINES: dict[str, tuple[str, str, Shape]] = {
    "sample and KL, 65,536 × 128": ("latent", "cpp", (65536, 128)),
    "sample and KL, 64 × 10": ("latent", "cpp", (64, 10)),
    "likelihood of 1,024 images": ("bernoulli_nll", "cpp-bool", (1024, 1, 64, 64)),
    "parts of the KL, 2,048 images": ("log_densities", "cpp", (2048, 10)),
}
_STEPS = (64, 1024)  # images
# Title on the page -> study.
_STUDIES: dict[str, Study[Any]] = {
    "Training step": step.STUDY,
    "Time to a loss": time_to_loss.STUDY,
    "A small batch": latency.STUDY,
    "The floors of the CPU kernels": floors.STUDY,
    "Encoding a data set": encode.STUDY,
    "Training beside other programs": busy.STUDY,
    "A sweep": sweep.STUDY,
    "bf16 and float32 over five seeds": precision.STUDY,
    "Growth of the log densities": scaling.STUDY,
}


def page(results: Mapping[str, Results]) -> str:
    """The text of the page: the ops of ``results``, and the studies whose files lie in folders."""
    parts = [_HEAD]
    for op in entry_names():
        if files := {file: found for file, found in results.items() if found.op == op}:
            parts += _op_section(op, files)
    for title, study in _STUDIES.items():
        parts.append(f"## {title}\n")
        for path in sorted(RESULTS.glob(study.file.replace("MACHINE", "*"))):
            found = study.results.load(path)
            parts.append(
                f"{_machine(found)}: `{found.command}` → `{path.relative_to(ROOT)}`, {found.date[:10]}.\n"
            )
            parts.append(f"{study.show(found)}\n")
    return "\n".join(parts).rstrip() + "\n"


def _op_section(op: str, files: Mapping[str, Results]) -> Iterator[str]:
    """The figures of all machines for one op; the rows of a contender stand below each other."""
    yield f"## {op}\n"
    for file, found in files.items():
        origin = f"torch {found.versions['torch']}, {found.date[:10]}"
        yield f"- {_machine(found)}: `{found.command}` → `benchmarks/results/{file}`, {origin}."
    yield ""
    for picture in pictures(files):
        yield f"![{op}](benchmarks/{picture})\n"
    if op == _SCALING:
        return
    measured = [(found, m) for found in files.values() for m in both_directions(found)]
    on_gpu = any(m.launches is not None for _, m in measured)
    columns = [
        "contender",
        "machine",
        "forward:",
        "backward:",
        "both:",
        "eager:",
        "compile:",
        "floor:",
        "memory:",
    ]
    columns += ["launches:"] if on_gpu else []
    for shape, dtype in dict.fromkeys((m.shape, m.dtype) for _, m in measured):
        of_problem = [(found, m) for found, m in measured if (m.shape, m.dtype) == (shape, dtype)]
        rows = (
            _op_row(found, m, on_gpu)
            for name in _contenders([m for _, m in of_problem])
            for found, m in of_problem
            if m.contender == name
        )
        yield f"**{shape} {dtype}**\n\n{markdown(columns, rows)}\n"


def _op_row(results: Results, both: Measurement, on_gpu: bool) -> list[str]:
    p50 = {
        m.direction: m.p50
        for m in results.measurements
        if (m.shape, m.dtype, m.contender) == (both.shape, both.dtype, both.contender)
    }
    cells = [
        both.contender,
        _name(results),
        *(seconds(p50[d]) for d in ("forward", "backward", "forward+backward")),
    ]
    cells += [_times(results.speedup(both, over)) for over in ("eager", "compile")]
    cells += [times(both.floor_ratio), "" if both.peak_bytes is None else size(both.peak_bytes)]
    return cells + (["" if both.launches is None else str(both.launches)] if on_gpu else [])


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
    rows, kind = [], newest_cpu(results)
    for op, contender, number in chosen:
        found = results[f"{op}-{kind}.json"]
        for m in [m for m in _both(found) if m.contender == contender][:number]:
            ratios = (*_speedups(found.speedup, m), times(m.floor_ratio))
            floor = f"{size(m.bytes)} at {m.copy_gigabytes_per_second:.3g} GB/s"
            rows.append((op, str(m.shape), m.dtype, contender, seconds(m.p50), *ratios, floor))
    columns = ("op", "shape", "dtype", "ours", "time:", "× eager:", "× torch.compile:", "× floor:", "floor")
    return markdown(columns, rows)


def headlines(results: Mapping[str, Results], folder: Path) -> str:
    """The README's table: float32, forward and backward of four ops, and whole steps of training."""
    kind = newest_cpu(results)
    rows = []
    for name, (op, contender, shape) in _HEADLINES.items():
        found = results[f"{op}-{kind}.json"]
        both = {m.contender: m for m in _both(found) if (m.shape, m.dtype) == (shape, "fp32")}
        rows.append(
            (
                name,
                *(seconds(both[c].p50) for c in (contender, "eager")),
                *_speedups(found.speedup, both[contender]),
            )
        )
    steps = StepResults.load(folder / "step" / f"{kind}.json")
    for images in _STEPS:
        times_of = {m.contender: m for m in steps.measurements if m.batch_size == images}
        ours, eager = times_of["ours"], steps.fastest(images, "eager")
        assert eager is not None
        rows.append(
            (
                f"whole step of `BetaVAE`, {images:,} images",
                seconds(ours.p50),
                seconds(eager),
                *_speedups(steps.speedup, ours),
            )
        )
    return markdown(("float32", "ours:", "plain PyTorch:", "× plain:", "× torch.compile:"), rows)


def newest_cpu(results: Mapping[str, Results]) -> str:
    """The kind of the CPU that the pages show: of those with all ops of their tables, the one measured last."""
    wanted = {op for chosen in _FIGURES.values() for op, _, _ in chosen}
    on_cpus = sorted((r for r in results.values() if not r.machine["gpu"]), key=lambda r: r.date)
    kinds = [str(r.machine["kind"]) for r in on_cpus]
    return [kind for kind in kinds if all(f"{op}-{kind}.json" in results for op in wanted)][-1]


def measured_on(results: Mapping[str, Results]) -> str:
    """A sentence on the machine that the pages show, and on the others."""
    kind = newest_cpu(results)
    found = results[f"latent-{kind}.json"]
    others = dict.fromkeys(_name(r) for r in results.values() if r.machine["kind"] != kind)
    also = f" Also measured on: {', '.join(others)}." if others else ""
    return f"Measured on {_machine(found)}, with torch {found.versions['torch']}, {found.date[:10]}.{also}"


def with_tables(page: str, results: Mapping[str, Results], folder: Path) -> str:
    """The text of a page with its tables of figures written anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for (of, mark), chosen in _FIGURES.items():
        if of == page:
            text = between(text, mark, figures(results, chosen))
    text = between(text, "machine", measured_on(results))
    if page == _README:
        text = between(text, "speeds", headlines(results, folder))
    return between(text, "gpu", gpu_table(folder)) if page == _SPEED else text


def pictures(files: Mapping[str, Results]) -> dict[str, list[Results]]:
    """The results that share a picture, by its file name: one for all CPUs, and one for each GPU, of an op."""
    found: dict[str, list[Results]] = {}
    for results in files.values():
        kind = results.machine["kind"] if results.machine["gpu"] else "cpu"
        found.setdefault(f"{results.op}-{kind}.png", []).append(results)
    return found


def draw(machines: Sequence[Results]) -> Figure:
    """Draw forward and backward of every problem: times as bars or, for a grid of problems, their growth as curves."""
    return _growth(machines) if machines[0].op == _SCALING else _bars(machines)


def _bars(machines: Sequence[Results]) -> Figure:
    """Draw the times over the floor, as a group of bars for each problem and side by side for the machines."""
    every = [m for results in machines for m in _both(results)]
    problems = list(dict.fromkeys((m.shape, m.dtype) for m in every))
    contenders = _contenders(every)
    figure = Figure(figsize=(10, 1.1 + 0.16 * len(problems) * (len(contenders) + 1)), layout="constrained")
    axes = figure.subplots(1, len(machines), sharex=True, sharey=True, squeeze=False)[0]
    bars = {}
    for axis, results in zip(axes, machines, strict=True):
        for i, name in enumerate(contenders):
            places = {problems.index((m.shape, m.dtype)): m for m in _both(results) if m.contender == name}
            at = [p * (len(contenders) + 1) + i for p in places]
            bars[name] = axis.barh(at, [m.floor_ratio for m in places.values()], 0.85, color=_COLOURS[i])
            axis.bar_label(bars[name], [seconds(m.p50) for m in places.values()], padding=2, fontsize=7)
        axis.set_title(_name(results), fontsize=9)
        axis.set_xscale("log")
        axis.margins(x=0.12 * len(machines))
        axis.spines[["top", "right"]].set_visible(False)
    middle = (len(contenders) - 1) / 2
    axes[0].set_yticks([p * (len(contenders) + 1) + middle for p in range(len(problems))])
    axes[0].set_yticklabels([f"{shape} {dtype}" for shape, dtype in problems], fontsize=8)
    axes[0].invert_yaxis()
    figure.supxlabel("forward and backward, times the memory floor (labels: the time)", fontsize=9)
    figure.legend(bars.values(), bars, loc="outside upper center", ncols=len(bars), frameon=False, fontsize=8)
    return figure


def _growth(machines: Sequence[Results]) -> Figure:
    """Draw the times by batch size at a fixed number of channels, and by channels at a fixed batch size, a row for each
    machine."""
    figure = Figure(figsize=(10, 4.2 * len(machines)), layout="constrained")
    grids = (("batch size B, at 32 channels", 0, 32), ("channels D, at 4,096 rows", 1, 4096))
    rows = figure.subplots(len(machines), 2, sharey=True, squeeze=False)
    for axes, results in zip(rows, machines, strict=True):
        found = _both(results)
        for axis, (label, varying, fixed) in zip(axes, grids, strict=True):
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
        axes[0].set_ylabel(f"forward and backward on {_name(results)}, seconds")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _both(results: Results) -> list[Measurement]:
    return [m for m in both_directions(results) if m.contender != _ORACLE]


def _contenders(found: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(m.contender for m in found))


def _name(results: Provenance) -> str:
    """The machine in a word: its GPU, or what ``machine.kind`` says of its CPU."""
    return str(results.machine["gpu"] or str(results.machine["kind"]).removeprefix("cpu-"))


def _machine(results: Provenance) -> str:
    machine = results.machine
    return str(machine["gpu"] or f"{_name(results)} ({machine['cpu']}, {machine['threads']} threads)")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else times(ratio)


def main() -> int:
    results = load_all(RESULTS)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, machines in pictures(results).items():
        draw(machines).savefig(PICTURES / name, dpi=110)
    PAGE.write_text(page(results), encoding="utf-8")
    for name in PAGES:
        (ROOT / name).write_text(with_tables(name, results, RESULTS), encoding="utf-8")
    print(f"Written to {', '.join((str(PAGE.relative_to(ROOT)), *PAGES))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
