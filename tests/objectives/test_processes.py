"""Several processes that share a batch have the gradients and multipliers of the whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests import leave_process_group
from tests.objectives.cases import NAMES, ROWS, inputs, objective, posterior

PROCESSES = 2


def results(name, rows):
    """The gradients of z, μ and log σ², and the objective's state after its update, from these rows of the batch."""
    made = objective(name).double()
    moments = [x.detach()[rows].requires_grad_() for x in posterior()]
    batch = inputs(*moments)
    made(batch).total.backward()
    made.update(batch.reconstruction.detach(), batch.kl.detach())
    return [x.grad for x in moments], made.state_dict()


def share(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    mine = slice(rank * ROWS // PROCESSES, (rank + 1) * ROWS // PROCESSES)
    torch.save({name: results(name, mine) for name in NAMES}, f"{folder}/{rank}")
    leave_process_group()


def test_shares_add_up_to_the_batch(tmp_path):
    mp.spawn(share, args=(str(tmp_path),), nprocs=PROCESSES)
    shares = [torch.load(tmp_path / str(rank)) for rank in range(PROCESSES)]
    for name in NAMES:
        whole, state = results(name, slice(None))
        for k, expected in enumerate(whole):
            # The gradients are averaged over the processes, as DistributedDataParallel does.
            found = torch.cat([gradients[name][0][k] for gradients in shares]) / PROCESSES
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=f"{name} {k}")
        for key, expected in state.items():
            first, second = (gradients[name][1][key] for gradients in shares)
            assert torch.equal(first, second), (name, key)
            if name != "factorvae":  # its discriminator sees other permutations
                torch.testing.assert_close(first, expected, rtol=1e-6, atol=0)
