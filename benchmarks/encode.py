"""Times the encoding of a data set as in ``evaluate``, and in a plain loop over batches of 64.

    python -m benchmarks.encode --threads 2

The loop runs the same network in plain torch: NCHW, no gradients, images as floats from the same storage. All encode the
same images in turn. Nothing is reported if their moments differ from the loop's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from benchmarks.arguments import positive
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, StudyError
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import Effort, Task, Timing, clock_of, interleave
from betavae_fast.bench.units import times
from betavae_fast.choices import Architecture
from betavae_fast.data import load_dataset
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation.encoding import encode
from betavae_fast.nn import BetaVAE
from betavae_fast.training.process import keep_freed_memory

EAGER_BATCH = 64
# Contender -> absolute error of the moments, which are of order 1.
TOLERANCES = {"ours": 1e-5, "ours, bf16": 1e-2}
EFFORT = Effort(sample_seconds=0.5, task_seconds=20.0, min_samples=5)


@dataclass(frozen=True)
class EncodeResults(Provenance):
    images: int
    largest_differences: dict[str, float]  # between the moments of each contender and eager's
    seconds: dict[str, Timing]

    @property
    def images_per_second(self) -> dict[str, float]:
        return {name: self.images / timing.p50 for name, timing in self.seconds.items()}

    def speedup(self, contender: str) -> float:
        """The ratio of eager's median to that of ``contender``."""
        return self.seconds["eager"].p50 / self.seconds[contender].p50


def contenders(dataset: ImageDataset, indices: Tensor, architecture: str) -> dict[str, Callable[..., Tensor]]:
    """The functions that encode the images at ``indices`` of ``dataset``; each returns the moments (N, 2·D)."""
    torch.manual_seed(0)
    model = BetaVAE(dataset.image_shape, architecture=architecture).eval()  # type: ignore[arg-type]
    plain = nn.Sequential(
        *(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in model.encoder)
    ).to(dataset.device)
    ours = BetaVAE(dataset.image_shape, architecture=architecture).eval()  # type: ignore[arg-type]
    ours.load_state_dict(model.state_dict())
    ours = ours.to(dataset.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def loop(_: object = None) -> Tensor:
        return torch.cat([plain(dataset.gather(batch).float()) for batch in indices.split(EAGER_BATCH)])

    def table(precision: torch.dtype, _: object = None) -> Tensor:
        encoding = encode(ours, dataset, indices, precision=precision)
        return torch.cat([encoding.mu, encoding.logvar], dim=1)

    both = {"ours": torch.float32, "ours, bf16": torch.bfloat16}
    return {"eager": loop} | {name: partial(table, precision) for name, precision in both.items()}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=positive, default=16384, help="default: 16384")
    parser.add_argument("--architecture", choices=get_args(Architecture), default="burgess")


def measure(run: Run) -> Iterator[EncodeResults]:
    keep_freed_memory()
    dataset = load_dataset("dsprites").to(run.device)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    indices = order[: run.args.images].to(run.device)
    found = contenders(dataset, indices, run.args.architecture)
    eager = found["eager"]().cpu()
    differences = {name: float((found[name]().cpu() - eager).abs().max()) for name in TOLERANCES}
    for name, difference in differences.items():
        if not difference <= TOLERANCES[name]:
            raise StudyError(
                f"the moments of {name} differ by {difference:.1e}, more than {TOLERANCES[name]:.0e}"
            )
    tasks = [Task(name, encoded) for name, encoded in found.items()]
    timings = interleave(tasks, clock_of(run.device), EFFORT)
    yield EncodeResults(**run.origin, images=len(indices), largest_differences=differences, seconds=timings)


def show(results: EncodeResults) -> str:
    rows = (
        (
            name,
            f"{rate:,.0f}",
            times(results.speedup(name)),
            f"{results.largest_differences.get(name, 0.0):.1e}",
        )
        for name, rate in results.images_per_second.items()
    )
    return markdown(("", "images/s:", "eager:", "moments differ by:"), rows)


STUDY = Study(
    "benchmarks.encode",
    __doc__,
    EncodeResults,
    "encode/MACHINE.json",
    measure,
    show,
    options,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())
