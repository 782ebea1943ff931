"""FSDP2 (``fully_shard``): two processes that hold half of each parameter take the same step as one process."""

from __future__ import annotations

import copy
import socket
import warnings

import pytest
import torch
from torch import distributed

from betavae_fast import BetaVAE, BetaVAELoss
from tests import leave_process_group


def worker(rank: int, port: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # The outputs are views, which nothing here writes to.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    alone = BetaVAE((1, 16, 16), latent_dim=3)
    shared = copy.deepcopy(alone)
    mesh = init_device_mesh("cpu", (2,))
    for module in (shared.encoder, shared.decoder, shared):
        fully_shard(module, mesh=mesh)
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    loss = BetaVAELoss(2.0)

    whole = alone(images, seed=5)
    loss(whole.decoded, images, whole.kl).total.backward()
    mine = images[4 * rank : 4 * rank + 4]
    part = shared(mine, seed=5, first_row=4 * rank)
    loss(part.decoded, mine, part.kl).total.backward()
    torch.testing.assert_close(part.z, whole.z[4 * rank : 4 * rank + 4])
    for a, b in zip(shared.parameters(), alone.parameters(), strict=True):
        assert a.to_local().numel() < b.numel() or b.shape[0] == 1
        torch.testing.assert_close(a.grad.full_tensor(), b.grad, rtol=1e-4, atol=1e-5)
    leave_process_group()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_take_the_step_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port,), nprocs=2)
