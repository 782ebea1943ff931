"""A step that exchanges gradients gives the losses of a step that does not, in a group of one process.

For one process the command line makes no process group. This test makes one, over NCCL on a GPU and gloo on a CPU, and
wraps the model as for several processes. On a GPU the step and its exchange are recorded as a CUDA graph.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from betavae_fast.data.images import BinaryImages
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.graph import graphed, side_stream
from betavae_fast.training.state import prepare
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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_an_exchange_with_oneself_changes_no_loss(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    alone = losses(device, exchanged=False)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        together = losses(device, exchanged=True)
    finally:
        dist.destroy_process_group()
    assert together == pytest.approx(alone, rel=TOLERANCE)
