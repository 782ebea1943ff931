"""Checks that the contenders compute the same thing, before any of them is timed.

Each contender is run on the problem that will be timed. First it is given the problem's noise, and its outputs and
gradients are compared with the formula in float64. Then it draws its own noise, as it will when it is timed. That noise
is recovered from its outputs; it must look standard normal and differ from call to call, and the formula with the
recovered noise must agree with the outputs and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf

import torch
from torch import Tensor

from betavae_fast.bench.registry import Contender, Forward, Op, Problem

# Our backends may have twice the error of the plain float32 formula, plus one rounding. The others are compared with the
# formula in their own dtype and have more slack: they must do the same work, but need not be as exact.
_OURS, _PEER = 2.0, 8.0
# Noise recovered from a rounded sample carries the sample's rounding, which the gradients then have, too.
_RECOVERED = 4.0
# Standard errors allowed to the noise's mean and variance: less than one false alarm in 10⁷, even for few numbers. (A sum
# of n squares exceeds n + 2√(n x) + 2x with probability e⁻ˣ at most; x = 18. Laurent & Massart 2000, lemma 1.)
_MOMENTS = 6.0


# Maps a dtype to the formula's outputs and gradients in it.
Formula = Callable[[torch.dtype], dict[str, Tensor]]


class ParityError(Exception):
    """A contender's results differ from the formula's, so its times would mean nothing."""


@dataclass(frozen=True)
class Error:
    """The error of one quantity of a contender against float64: the largest difference over the largest value."""

    contender: str
    noise: str
    quantity: str
    error: float
    budget: float

    @property
    def within_budget(self) -> bool:
        # False for NaN. The budget is infinite if the plain formula overflows: it then proves nothing, so False again.
        return self.error <= self.budget < inf


def formula_of(op: Op, problem: Problem) -> Formula:
    """The formula applied to the problem; its results in each dtype are computed once and kept."""
    return cache(partial(in_dtype, op, problem))


def check(
    op: Op, problem: Problem, forwards: dict[Contender, Forward], formula: Formula | None = None
) -> list[Error]:
    """The errors of every contender.

    Args:
        formula: result of ``formula_of``, to share it between several calls.
    Raises: ParityError if an error exceeds its budget, or an output has the wrong shape.
    """
    formula = formula or formula_of(op, problem)
    errors = [
        e for contender, forward in forwards.items() for e in _check(op, problem, contender, forward, formula)
    ]
    if wrong := [e for e in errors if not e.within_budget]:
        lines = (
            f"{e.contender}, {e.noise} noise: {e.quantity} is off by {e.error:.2e}, more than {e.budget:.2e}"
            for e in wrong
        )
        raise ParityError("\n".join(lines))
    return errors


def _check(
    op: Op, problem: Problem, contender: Contender, forward: Forward, formula: Formula
) -> Iterator[Error]:
    for name, x, grad in zip(
        op.outputs, forward(problem.inputs, problem.noise), problem.output_grads, strict=True
    ):
        if x.shape != grad.shape:
            raise ParityError(
                f"{contender.name}, given noise: {name} has shape {tuple(x.shape)}, not {tuple(grad.shape)}"
            )
    given = _quantities(op, problem, forward)
    yield from _compare(formula, problem, contender, "given", given, recovery=0.0)
    if op.recover_noise is None:
        return
    unpinned = replace(problem, noise=None)
    first, own = (_quantities(op, unpinned, forward) for _ in range(2))
    inputs = tuple(x.detach().double() for x in problem.inputs)
    noise = op.recover_noise(inputs, tuple(own[name].double() for name in op.outputs))
    recovery = _RECOVERED * _rounding(own[op.outputs[0]].dtype)
    with_noise = partial(in_dtype, op, replace(problem, noise=noise))
    yield from _compare(with_noise, problem, contender, "own", own, recovery)
    mean, excess, count = noise.mean().abs().item(), (noise.square().mean() - 1).abs().item(), noise.numel()
    yield Error(contender.name, "own", "noise mean", mean, _MOMENTS * count**-0.5)
    yield Error(
        contender.name, "own", "noise variance", excess, _MOMENTS * (2 / count) ** 0.5 + _MOMENTS**2 / count
    )
    repeated = all(torch.equal(first[name], own[name]) for name in op.outputs)
    yield Error(contender.name, "own", "noise repeated", float(repeated), 0.0)


def _quantities(op: Op, problem: Problem, forward: Forward) -> dict[str, Tensor]:
    """The outputs and gradients by name. They are copied, because the replay of a CUDA graph overwrites its outputs."""
    outputs = tuple(forward(problem.inputs, problem.noise))
    gradients = torch.autograd.grad(outputs, problem.leaves, problem.grads_like(outputs))
    names = (*op.outputs, *(f"gradient {i}" for i in range(len(gradients))))
    return dict(zip(names, (x.detach().clone() for x in (*outputs, *gradients)), strict=True))


def in_dtype(op: Op, problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """The formula's outputs and gradients in ``dtype``, on the numbers of the problem."""
    inputs = tuple(x.detach().to(dtype).requires_grad_(x.requires_grad) for x in problem.inputs)
    noise = None if problem.noise is None else problem.noise.to(dtype)
    return _quantities(op, replace(problem, inputs=inputs, noise=noise), op.formula)


def _compare(
    formula: Formula,
    problem: Problem,
    contender: Contender,
    noise: str,
    found: dict[str, Tensor],
    recovery: float,
) -> Iterator[Error]:
    arithmetic = torch.float32 if contender.ours else problem.inputs[0].dtype
    exact, plain = formula(torch.float64), formula(arithmetic)
    factor = _OURS if contender.ours else _PEER
    # torch.compile adds the terms of a column one by one in float32; the error grows on average with the square root of
    # their number.
    serial_sum = 0.0 if contender.ours else len(problem.inputs[0]) ** 0.5 * _rounding(torch.float32)
    for name, truth in exact.items():
        # On a small problem the plain formula can be exact by chance, so the budget starts from at least 3 roundings.
        likely = max(_distance(plain[name], truth), 3 * _rounding(arithmetic))
        budget = factor * likely + _rounding(found[name].dtype) + recovery + serial_sum
        yield Error(contender.name, noise, name, _distance(found[name], truth), budget)


def _rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _distance(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).abs().max() / truth.abs().max()).item()
