"""The interface of all objectives: their inputs, their outputs and their base class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betavae_fast.objectives.options import ObjectiveOptions
from betavae_fast.ops.gradients import transformed


class LossInputs(NamedTuple):
    """The quantities of a batch that an objective may use. Losses are in nats, averaged over the batch."""

    reconstruction: Tensor  # scalar: −log p(x|z), summed over pixels
    kl_per_dim: Tensor  # (D,)
    z: Tensor  # (B, D): the sample
    mu: Tensor  # (B, D)
    logvar: Tensor  # (B, D)
    step: Tensor  # int64 scalar: updates of the weights done before this one

    @property
    def kl(self) -> Tensor:
        """KL(q(z|x) ‖ N(0, I)), a scalar."""
        return self.kl_per_dim.sum()


class ObjectiveOutput(NamedTuple):
    """The loss to minimise, and the values to log."""

    total: Tensor  # scalar
    metrics: dict[str, Tensor]  # a scalar for each of the objective's ``logged``


class Objective(nn.Module, ObjectiveOptions):
    """Base class of the objectives. A loop of your own uses one like this::

        total, metrics = objective(LossInputs(reconstruction, kl_per_dim, z, mu, logvar, step))
        total.backward()
        optimizer.step()
        objective.update(reconstruction, kl_per_dim.sum())

    The host reads nothing back, so a CUDA graph can record these lines. An objective's state is in its ``state_dict``
    and its ``optimizer``; a run that restores both continues bit for bit.

    If several processes (torch.distributed) share every batch equally, an objective takes its statistics over the whole
    batch: gradients averaged over the processes equal those of one process with the whole batch, unless the objective's
    documentation says otherwise.
    """

    logged: tuple[str, ...] = ()
    """Names of the metrics."""
    optimizer: Optimizer | None = None
    """The optimizer of the objective's own parameters, if it has any."""
    _constant: tuple[tuple[object, ...], Tensor] | None = None

    # Options are compared by their values; modules, which inherit options, by identity.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__init__()
        super().__post_init__()

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        raise NotImplementedError

    def _like(self, numbers: float | tuple[float, ...], x: Tensor) -> Tensor:
        """``numbers`` as a tensor of the dtype and device of ``x``.

        It is made again only if they change, because a CUDA graph can record no copy from the host.
        """
        if transformed():  # what is made here belongs to the transform
            return torch.tensor(numbers, dtype=x.dtype, device=x.device)
        made_for = (numbers, x.dtype, x.device)
        if self._constant is None or self._constant[0] != made_for:
            with torch.inference_mode(False):  # a tensor of inference mode could serve no later training step
                self._constant = made_for, torch.tensor(numbers, dtype=x.dtype, device=x.device)
        return self._constant[1]

    def update(self, reconstruction: Tensor, kl: Tensor) -> None:
        """Update the state that is not learned by gradient descent on the total, such as a multiplier.

        To be called after each update of the weights, with the batch's means. Most objectives have no such state.
        """
