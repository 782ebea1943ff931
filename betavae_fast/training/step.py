"""One update of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from betavae_fast.objectives import LossInputs, Objective
from betavae_fast.processes import rank
from betavae_fast.training.precision import autocast
from betavae_fast.training.running_means import RunningMeans
from betavae_fast.training.schedules import is_constant, learning_rate
from betavae_fast.training.state import TrainState


class TrainStep:
    """One update of the weights, as a function of tensors on the device alone.

    Everything that changes from step to step (the number of steps done, the noise, the data order, the learning rate,
    the objective's weights) is a tensor on the device, read and written there. So no call waits for the device, and
    every call is the same sequence of operations on the same memory, which a CUDA graph can record once.

    Args:
        state: the run to train, from its ``step`` on.
        network: ``state.model``, or a wrapper around it that averages gradients over processes.

    Attributes:
        means: running means of the logged quantities, with one addition for each of the ``accumulate`` parts of a
            batch.
    """

    def __init__(self, state: TrainState, network: nn.Module) -> None:
        config, device = state.config, state.device
        self._state = state
        self._network = network
        self._first_row = rank() * state.rows * config.accumulate
        # (seed, step): the seed of the step's noise, whose second number also counts the steps.
        self._noise_seed = torch.tensor([config.seed, state.step], dtype=torch.int64, device=device)
        self._step = self._noise_seed[1]
        self._order = torch.empty(
            state.batches.per_epoch, state.batches.batch_size, dtype=torch.int64, device=device
        )
        self._one = torch.ones((), device=device)
        self._moves_objective = type(state.objective).update is not Objective.update
        dims = config.latent_dim
        self.means = RunningMeans(
            device,
            loss=1,
            reconstruction=1,
            kl_per_dim=dims,
            squared_mean=dims,
            **dict.fromkeys(state.objective.logged, 1),
        )

    def load_order(self, epoch: int) -> None:
        """Copy the data order of an epoch to the device. Must be called before the epoch's first step."""
        self._order.copy_(self._state.batches.epoch(epoch))

    def __call__(self) -> None:
        state, config = self._state, self._state.config
        if not is_constant(config):
            for group in state.optimizer.param_groups:
                group["lr"].copy_(learning_rate(self._step, config))

        indices = self._order.index_select(0, self._step % len(self._order)).flatten()
        state.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in range(config.accumulate):
            first_row = self._first_row + part * state.rows
            with nullcontext() if part == config.accumulate - 1 else self._without_exchange():
                losses.append(self._add_gradients(indices[first_row : first_row + state.rows], first_row))
        if config.accumulate > 1:
            self._divide_gradients(config.accumulate)
        if config.clip_grad_norm is not None:
            clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
        state.optimizer.step()
        if self._moves_objective:
            reconstructions, kls = zip(*losses, strict=True)
            state.objective.update(_mean(reconstructions), _mean([kl.sum() for kl in kls]))
        self._step += 1

    def _add_gradients(self, indices: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
        """Run forward and backward for the part of the batch from row ``first_row``.

        Returns: its reconstruction loss and its KL per dim.
        """
        state = self._state
        images = state.dataset.gather(indices)
        with autocast(state.device, state.precision):
            out = self._network(images, seed=self._noise_seed, first_row=first_row)
            reconstruction = state.reconstruction(out.decoded, images)
        inputs = LossInputs(reconstruction, out.kl, out.z, out.mu, out.logvar, self._step)
        total, metrics = state.objective(inputs)
        total.backward(self._one)
        with torch.no_grad():
            squared_mean = out.mu.square().mean(0)
        self.means.add(
            loss=total,
            reconstruction=reconstruction,
            kl_per_dim=out.kl,
            squared_mean=squared_mean,
            **metrics,
        )
        return reconstruction.detach(), out.kl.detach()

    def _divide_gradients(self, parts: int) -> None:
        """Turn gradients summed over the parts of a batch into means.

        The losses are not scaled instead, because the likelihood's forward pass assumes an incoming gradient of 1.
        """
        for module in (self._state.model, self._state.objective):
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                torch._foreach_div_(gradients, parts)

    def _without_exchange(self) -> AbstractContextManager[None]:
        """A context in which processes do not exchange gradients: they do so once, in the last part of a batch."""
        network = self._network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean()
