"""What every objective takes and gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer


class LossInputs(NamedTuple):
    """What an objective may look at: of one batch, in nats, means over it."""

    reconstruction: Tensor  # scalar: −log p(x|z), summed over pixels
    kl_per_dim: Tensor  # (D,)
    z: Tensor  # (B, D): the sample
    mu: Tensor  # (B, D)
    logvar: Tensor  # (B, D)
    step: Tensor  # int64 scalar: updates of the weights done before this one

    @property
    def kl(self) -> Tensor:
        """Scalar: KL(q(z|x) ‖ N(0, I))."""
        return self.kl_per_dim.sum()


class ObjectiveOutput(NamedTuple):
    """What to minimise, and what to log."""

    total: Tensor  # scalar
    metrics: dict[str, Tensor]  # a scalar for each of the objective's ``logged``


class Objective(nn.Module):
    """Base of the objectives. In a loop of your own::

        total, metrics = objective(LossInputs(reconstruction, kl_per_dim, z, mu, logvar, step))
        total.backward()
        optimizer.step()
        objective.update(reconstruction, kl_per_dim.sum())

    All of it stays on the device: nothing is read by the host, so a CUDA graph can hold these lines. What an
    objective carries from step to step is in its ``state_dict`` and its ``optimizer``; saved together, they let a
    run go on bit for bit.

    In several processes (torch.distributed) that share every batch equally, each with its own part of it, an objective
    takes statistics over the whole batch: gradients averaged over the processes are those of one process with all of
    it, where an objective does not say otherwise.
    """

    logged: tuple[str, ...] = ()
    """Names of the metrics."""
    optimizer: Optimizer | None = None
    """Of the objective's own parameters, if it has any."""

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        raise NotImplementedError

    def update(self, reconstruction: Tensor, kl: Tensor) -> None:
        """To be called after each update of the weights, with the batch's means: moves what is not learned by gradient
        descent on the total. Most objectives have nothing to move, and do not override it."""
