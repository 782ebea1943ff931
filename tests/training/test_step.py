"""One update: its results, and that a CUDA graph could hold it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from betavae_fast.objectives.options import BetaOptions
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.state import prepare
from betavae_fast.training.step import TrainStep
from tests.training.recording import Recording

CONFIG = TrainConfig(data="tiny", latent_dim=3, steps=20, batch_size=8, device="cpu", precision="fp32")


def start(config, dataset, at=0):
    state = prepare(config, dataset)
    state.step = at
    step = TrainStep(state, state.model)
    step.load_order(at // state.batches.per_epoch)
    return state, step


def everything(state):
    tensors = [tensor.detach().clone() for tensor in state.model.parameters()]
    for parameter in state.model.parameters():
        tensors += [tensor.clone() for tensor in state.optimizer.state[parameter].values()]
    return tensors


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "clip_grad_norm": 0.5},
        {"lr_schedule": "cosine", "lr_warmup": 3, "beta_warmup": 6},
        {"precision": "bf16"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_one_step_recorded_is_every_step(dataset, changes):
    """The operations of step 2, run again, give steps 3 to 11, across the end of an epoch of 5."""
    config = TrainConfig.from_entries(CONFIG.entries() | changes)
    eager, eager_step = start(config, dataset)
    replayed, replayed_step = start(config, dataset)
    for _ in range(2):
        eager_step()
        replayed_step()
    with Recording() as recording:
        replayed_step()
    eager_step()
    for count in range(3, 12):
        for step in (eager_step, replayed_step):
            step.load_order(count // 5)
        eager_step()
        recording.replay()
        assert equal(everything(eager), everything(replayed)), count
    means = eager_step.means.read(12 * config.accumulate), replayed_step.means.read(12 * config.accumulate)
    assert equal(means[0].values(), means[1].values())


def test_the_recording_notices_what_a_graph_cannot_hold(dataset):
    _, step = start(CONFIG, dataset)
    with Recording(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        step()  # with the check that reads the indices on a CPU


def test_a_step_depends_on_how_many_went_before_and_not_on_the_object(dataset):
    state, step = start(CONFIG, dataset)
    for _ in range(2):
        step()
    went_on, step_on = start(CONFIG, dataset, at=2)
    went_on.model.load_state_dict(state.model.state_dict())
    went_on.optimizer.load_state_dict(deepcopy(state.optimizer.state_dict()))
    step()
    step_on()
    assert equal(everything(state), everything(went_on))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_of_a_batch_add_up_to_the_batch(dataset, accumulate):
    whole, whole_step = start(CONFIG, dataset)
    parts, parts_step = start(replace(CONFIG, accumulate=accumulate), dataset)
    whole_step()
    parts_step()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    # Equal losses mean equal noise, because the reconstruction is that of the sample.
    expected, found = whole_step.means.read(1), parts_step.means.read(accumulate)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9)


def test_the_gradient_is_clipped_to_its_norm(dataset):
    def gradients(clip):
        state, step = start(replace(CONFIG, clip_grad_norm=clip), dataset)
        step()
        return torch.cat([parameter.grad.flatten() for parameter in state.model.parameters()])

    free, clipped = gradients(None), gradients(0.01)
    assert free.norm() > 0.1
    torch.testing.assert_close(clipped, free * (0.01 / free.norm()), rtol=1e-4, atol=1e-9)
    assert torch.equal(gradients(1e6), free)


def test_learning_rate_and_beta_are_the_schedules(dataset):
    state, step = start(replace(CONFIG, lr=0.5, lr_warmup=4, objective=BetaOptions(8.0, warmup=2)), dataset)
    seen = []
    for _ in range(5):
        step()
        (group,) = state.optimizer.param_groups
        means = step.means.read(1)
        seen.append((float(group["lr"]), float(means["beta"])))
        expected = means["reconstruction"] + seen[-1][1] * means["kl_per_dim"].sum()
        assert float(means["loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert seen == [(0.125, 0.0), (0.25, 4.0), (0.375, 8.0), (0.5, 8.0), (0.5, 8.0)]


def test_bf16_is_for_the_networks_alone(dataset):
    _, exact_step = start(CONFIG, dataset)
    rounded, rounded_step = start(replace(CONFIG, precision="bf16"), dataset)
    seen = {}
    rounded.model.encoder.register_forward_hook(lambda *call: seen.update(encoder=call[-1].dtype))
    rounded.model.decoder.register_forward_hook(lambda *call: seen.update(decoder=call[-1].dtype))
    rounded.model.latent.register_forward_hook(lambda *call: seen.update(latent=call[-1].mu.dtype))
    exact_step()
    rounded_step()
    assert seen == {"encoder": torch.bfloat16, "latent": torch.float32, "decoder": torch.bfloat16}
    assert {tensor.dtype for tensor in everything(rounded)} == {torch.float32}
    losses = exact_step.means.read(1), rounded_step.means.read(1)
    torch.testing.assert_close(losses[1]["loss"], losses[0]["loss"], rtol=1e-2, atol=0)
    assert not torch.equal(losses[1]["loss"], losses[0]["loss"])
