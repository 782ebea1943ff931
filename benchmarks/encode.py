"""Times the encoding of a data set as in ``evaluate``, and in a plain loop over batches of 64.

    python -m benchmarks.encode --threads 2

The loop runs the same network in plain torch: NCHW, no gradients, images as floats from the same storage. Both encode the
same images in turn. Nothing is reported if their moments differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import RESULTS
from benchmarks.arguments import available, command, positive, writable
from betavae_fast.bench import machine
from betavae_fast.bench.results import Provenance
from betavae_fast.bench.timing import CpuClock, CudaClock, Effort, Task, Timing, interleave
from betavae_fast.choices import Architecture
from betavae_fast.data import load_dataset
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation.encoding import encode
from betavae_fast.files import write_json
from betavae_fast.nn import BetaVAE
from betavae_fast.training.process import keep_freed_memory

EAGER_BATCH = 64
TOLERANCE = 1e-4  # absolute error of the moments, which are of order 1
EFFORT = Effort(sample_seconds=0.5, task_seconds=20.0, min_samples=5)


@dataclass(frozen=True)
class EncodeResults(Provenance):
    images: int
    largest_difference: float  # largest difference between the moments of the two
    seconds: dict[str, Timing]
    images_per_second: dict[str, float]
    speedup: float  # ratio of the medians


def contenders(dataset: ImageDataset, indices: Tensor, architecture: str) -> dict[str, Callable[[], Tensor]]:
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
    def loop() -> Tensor:
        return torch.cat([plain(dataset.gather(batch).float()) for batch in indices.split(EAGER_BATCH)])

    def table() -> Tensor:
        encoding = encode(ours, dataset, indices)
        return torch.cat([encoding.mu, encoding.logvar], dim=1)

    return {"eager": loop, "ours": table}


def _task(encoded: Callable[[], Tensor]) -> Callable[[object], Tensor]:
    return lambda _: encoded()


def measure(dataset: ImageDataset, indices: Tensor, architecture: str) -> tuple[float, dict[str, Timing]]:
    """The largest difference of the moments, and the seconds of each contender.

    Raises: ValueError if the moments differ by more than the tolerance.
    """
    both = contenders(dataset, indices, architecture)
    eager, ours = (encoded().cpu() for encoded in both.values())
    difference = float((eager - ours).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the moments differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    tasks = [Task(name, _task(encoded)) for name, encoded in both.items()]
    clock = CpuClock() if dataset.device.type == "cpu" else CudaClock(flush=False)
    return difference, interleave(tasks, clock, EFFORT)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--images", type=positive, default=16384)
    parser.add_argument("--architecture", choices=get_args(Architecture), default="burgess")
    parser.add_argument(
        "--device",
        type=available,
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
    )
    parser.add_argument("--out", type=writable, help="default: benchmarks/results/encode/MACHINE.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    device = torch.device(args.device)
    dataset = load_dataset("dsprites").to(device)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(len(dataset), generator=generator)[: args.images].to(device)
    difference, timings = measure(dataset, indices, args.architecture)
    results = EncodeResults(
        command=command("benchmarks.encode", arguments),
        **machine.provenance(device),
        images=len(indices),
        largest_difference=difference,
        seconds=timings,
        images_per_second={name: len(indices) / timing.p50 for name, timing in timings.items()},
        speedup=timings["eager"].p50 / timings["ours"].p50,
    )
    console = Console()
    for name, rate in results.images_per_second.items():
        console.print(f"{name}: {rate:,.0f} images/s", highlight=False)
    console.print(f"{results.speedup:.2f}× eager", highlight=False)
    out = args.out or RESULTS / "encode" / f"{machine.kind(device)}.json"
    write_json(out, results)
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
