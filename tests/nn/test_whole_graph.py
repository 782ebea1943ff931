"""The whole model and its loss in one graph: torch.compile, torch.export, torch.func."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from betavae_fast import BetaVAE, BetaVAELoss
from betavae_fast.choices import Architecture

ARCHITECTURES = pytest.mark.parametrize("architecture", get_args(Architecture))


class Step(nn.Module):
    """A module that computes the loss of images."""

    def __init__(self, architecture: Architecture = "mlp", **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vae = BetaVAE((1, 64, 64), 3, architecture, **options)
        self.loss = BetaVAELoss(2.0)

    def forward(self, images: Tensor, seed: Tensor | None = None) -> Tensor:
        out = self.vae(images, seed=seed)
        return self.loss(out.decoded, images, out.kl).total


@pytest.fixture
def images() -> Tensor:
    return torch.randint(
        0, 256, (4, 1, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_and_gradients(step: Any, module: Step, *inputs: Tensor) -> list[Tensor]:
    loss = step(*inputs)
    return [loss, *torch.autograd.grad(loss, tuple(module.parameters()))]


@ARCHITECTURES
@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_a_graph_break(
    architecture: Architecture, training: bool, images: Tensor, fresh_dynamo: None
) -> None:
    module = Step(architecture).train(training)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    seed = torch.tensor([3, 4])
    for found, expected in zip(
        loss_and_gradients(compiled, module, images, seed),
        loss_and_gradients(module, module, images, seed),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_compiled_draws_anew_each_step(images: Tensor, fresh_dynamo: None) -> None:
    compiled = torch.compile(Step(), fullgraph=True, backend="aot_eager")
    torch.manual_seed(5)
    first, second = compiled(images), compiled(images)
    torch.manual_seed(5)
    assert torch.equal(compiled(images), first) and not torch.equal(first, second)


@ARCHITECTURES
@pytest.mark.parametrize("training", [True, False])
def test_exported_for_any_batch_size(architecture: Architecture, training: bool, images: Tensor) -> None:
    module = Step(architecture).train(training)
    seed = torch.tensor([3, 4])
    program = torch.export.export(
        module, (images, seed), dynamic_shapes=({0: torch.export.Dim("batch", min=2)}, None)
    )
    for x in (images, images[:3], images.repeat(3, 1, 1, 1)):
        torch.testing.assert_close(program.module()(x, seed), module(x, seed))
    called = {str(node.target) for node in program.graph.nodes}
    assert sum(name.startswith("betavae_fast.latent_") for name in called) == 1


def test_functional_call_is_the_module(images: Tensor) -> None:
    module = Step("burgess")
    other = {name: 1.5 * p.detach() for name, p in module.named_parameters()}
    seed = torch.tensor([3, 4])

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, parameters, (images, seed))

    leaves = {name: p.clone().requires_grad_() for name, p in other.items()}
    grads = torch.autograd.grad(loss(leaves), tuple(leaves.values()))
    module.load_state_dict(other)
    for found, expected in zip(grads, loss_and_gradients(module, module, images, seed)[1:], strict=True):
        assert torch.equal(found, expected)


@ARCHITECTURES
def test_vmap_over_models_is_each_model(architecture: Architecture, images: Tensor) -> None:
    models = [Step(architecture) for _ in range(2)]
    for parameter in models[1].parameters():
        parameter.data *= 1.5
    parameters, buffers = torch.func.stack_module_state(models)
    seed = torch.tensor([3, 4])

    def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(models[0], (p, b), (images, seed))

    losses = torch.func.vmap(loss)(parameters, buffers)
    torch.testing.assert_close(losses, torch.stack([model(images, seed) for model in models]))
    assert losses[0] != losses[1]
