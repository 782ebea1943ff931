"""Do the contenders compute the same thing? No time counts before this has been answered.

Each contender is run on the problem that will be timed. Given the problem's noise, its outputs and gradients
are compared with the formula in float64. Then with noise it draws itself, which is what is timed: the noise
is recovered from its outputs, must look standard normal and differ from call to call, and the formula, given
it, must agree again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf

import torch
from torch import Tensor

from betavae_fast.bench.registry import Contender, Forward, Op, Problem

# Ours: twice the plain float32 formula's error plus one rounding. The others get their own dtype's formula,
# and more slack: it is asked whether they do the same work, not how well.
_OURS, _PEER = 2.0, 8.0
# Noise recovered from a rounded sample carries its rounding, into the gradients too.
_RECOVERED = 4.0
# Standard errors of the noise's mean and variance: less than one false alarm in 10⁷, however few the numbers. (A sum of n
# squares exceeds n + 2√(n x) + 2x with probability e⁻ˣ at most; x = 18. Laurent & Massart 2000, lemma 1.)
_MOMENTS = 6.0


# The formula's outputs and gradients in a dtype.
Formula = Callable[[torch.dtype], dict[str, Tensor]]


class ParityError(Exception):
    """A contender computes something else: nothing may be reported."""


@dataclass(frozen=True)
class Error:
    """How far one quantity of a contender is from float64: largest difference over largest value."""

    contender: str
    noise: str
    quantity: str
    error: float
    budget: float

    @property
    def within_budget(self) -> bool:
        # False for NaN. A budget is infinite where the plain formula overflows, which then measures nothing.
        return self.error <= self.budget < inf


def formula_of(op: Op, problem: Problem) -> Formula:
    """The formula on the problem's numbers, computed once in each dtype."""
    return cache(partial(in_dtype, op, problem))


def check(
    op: Op, problem: Problem, forwards: dict[Contender, Forward], formula: Formula | None = None
) -> list[Error]:
    """Every contender's errors; ParityError if one of them exceeds its budget.

    Args:
        formula: ``formula_of`` the problem, where it is checked in several calls.
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
    """Outputs and gradients by name, copied: a CUDA graph's replay would overwrite them."""
    outputs = tuple(forward(problem.inputs, problem.noise))
    gradients = torch.autograd.grad(outputs, problem.leaves, problem.grads_like(outputs))
    names = (*op.outputs, *(f"gradient {i}" for i in range(len(gradients))))
    return dict(zip(names, (x.detach().clone() for x in (*outputs, *gradients)), strict=True))


def in_dtype(op: Op, problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """The formula in ``dtype``, on the problem's own numbers."""
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
    # torch.compile adds a column up one by one in float32: on average, the roundings grow with the root of
    # their number.
    serial_sum = 0.0 if contender.ours else len(problem.inputs[0]) ** 0.5 * _rounding(torch.float32)
    for name, truth in exact.items():
        # On a small problem the plain formula can be exact by luck; ours is within 3 ulp, luck or not.
        likely = max(_distance(plain[name], truth), 3 * _rounding(arithmetic))
        budget = factor * likely + _rounding(found[name].dtype) + recovery + serial_sum
        yield Error(contender.name, noise, name, _distance(found[name], truth), budget)


def _rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _distance(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).abs().max() / truth.abs().max()).item()
