"""One update of the weights."""

from __future__ import annotations

import torch

from betavae_fast.nn import split_kl
from betavae_fast.training.metrics import RunningMeans
from betavae_fast.training.state import TrainState


def take_step(state: TrainState, means: RunningMeans) -> None:
    """One update. Nothing in here waits for the device."""
    images = state.dataset.gather(state.batches[state.step].to(state.device))
    # The step is the stream: every step draws noise of its own, and the same noise whenever it is taken.
    noise_seed = torch.tensor([state.config.seed, state.step], dtype=torch.int64, device=state.device)
    out = state.model(images, seed=noise_seed)
    loss = state.objective(out.decoded, images, out.kl)
    state.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    state.optimizer.step()
    state.step += 1
    with torch.no_grad():
        split = split_kl(out.mu, out.logvar)
    means.add(
        loss=loss.total, reconstruction=loss.reconstruction, kl_per_dim=loss.kl_per_dim, **split._asdict()
    )
