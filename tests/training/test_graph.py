"""The launch of a step. test_step shows that a graph may hold a step; only a GPU shows that it does."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.training import graph, loop
from betavae_fast.training.config import TrainConfig

CONFIG = TrainConfig(data="tiny", latent_dim=3, steps=24, batch_size=8, log_every=5, device="cuda")


def test_on_the_cpu_a_step_is_called_as_it_is():
    step = lambda: None
    assert graph.graphed(step, torch.device("cpu")) is step


def test_gradients_that_pass_through_the_host_are_named(monkeypatch):
    monkeypatch.setattr(graph, "world_size", lambda: 2)
    monkeypatch.setattr(graph, "has_nccl", lambda: False)
    step = lambda: None
    with pytest.warns(UserWarning, match="no CUDA graph: without NCCL"):
        assert graph.graphed(step, torch.device("cuda")) is step


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"accumulate": 2, "clip_grad_norm": 0.5},
        {"lr_schedule": "cosine", "lr_warmup": 3, "beta_warmup": 6},
        {"beta_start": 16.0, "beta_steps": 6},
        {"objective": "capacity", "capacity_steps": 6},
        {"objective": "lagrangian", "kl_limit": 0.01},
        {"objective": "geco", "reconstruction_limit": 40.0},
        {"objective": "btcvae"},
        {"objective": "btcvae", "weights_start": 16.0, "weights_steps": 6, "tc_start": 3.0, "tc_steps": 4},
        {"objective": "factorvae"},
        {"objective": "dipvae-ii"},
    ],
    ids=str,
)
def test_a_graph_gives_the_bits_of_the_calls(dataset, changes, monkeypatch):
    def run():
        state, losses = loop.prepare(TrainConfig.from_entries(CONFIG.entries() | changes), dataset), []
        loop.train(state, None, on_entry=lambda metrics: losses.append((metrics.loss, metrics.kl_per_dim)))
        return losses, [parameter.detach() for parameter in state.model.parameters()]

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    replayed = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (replayed.append(1), replay(self)))
    losses, weights = run()
    assert len(replayed) == CONFIG.steps - 3
    monkeypatch.setattr(loop, "graphed", lambda step, device: step)
    eager_losses, eager_weights = run()
    assert losses == eager_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, eager_weights, strict=True))
