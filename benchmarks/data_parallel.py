"""Checks in a group of one process that a step that exchanges gradients gives the losses of a step that does not.

    torchrun --nproc-per-node 1 -m benchmarks.data_parallel --device cuda

For one process the command line makes no process group. This check makes one, over NCCL on a GPU and gloo on a CPU, and
wraps the model as for several processes. On a GPU the step and its exchange are recorded as a CUDA graph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.arguments import available
from betavae_fast.data.images import BinaryImages
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.graph import graphed, side_stream
from betavae_fast.training.loop import prepare
from betavae_fast.training.step import TrainStep

# Steps for torch's warm-up of DistributedDataParallel, for the recording, and for some replays.
STEPS, WARM_UP = 20, 11
IMAGES, BATCH_SIZE = 320, 16
# Relative error of a loss. It is not 0, because gradients pass through buckets, for which cuDNN may choose other kernels.
TOLERANCE = 1e-4


def losses(device: str, *, exchanged: bool) -> list[float]:
    """The loss of each step."""
    store = torch.randint(0, 256, (IMAGES, 64 * 64 // 8), generator=torch.Generator().manual_seed(0)).byte()
    config = TrainConfig(device=device, precision="fp32", batch_size=BATCH_SIZE, steps=STEPS)
    state = prepare(config, BinaryImages("random", store, (1, 64, 64)))
    state.model.train()
    found = []
    with ExitStack() as held:
        held.enter_context(side_stream(state.device))
        model: nn.Module = state.model
        if exchanged:
            model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        step = TrainStep(state, model)
        take, launch = step, graphed(step, state.device)
        step.load_order(0)
        for number in range(STEPS):
            # DistributedDataParallel must have finished its warm-up before a step is recorded.
            (take if number < WARM_UP else launch)()
            state.step += 1
            found.append(float(step.means.read(1)["loss"]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_parallel",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--device", type=available, choices=("cpu", "cuda"), default="cpu")
    device: str = parser.parse_args(argv).device
    alone = losses(device, exchanged=False)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        together = losses(device, exchanged=True)
    finally:
        dist.destroy_process_group()
    difference = max(abs(a - b) / abs(a) for a, b in zip(alone, together, strict=True))
    backend = "NCCL" if device == "cuda" else "gloo"
    print(
        f"{backend}, one process, {STEPS} steps: losses differ by {difference:.1e} from a step without exchange"
    )
    if not difference <= TOLERANCE:
        print(f"FAILED {backend}: losses differ by {difference:.1e}, more than {TOLERANCE:.0e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
