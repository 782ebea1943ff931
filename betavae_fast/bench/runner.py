"""Measures one op on one machine: checks each problem's contenders, then times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from betavae_fast.bench import copying, parity
from betavae_fast.bench.footprint import footprint
from betavae_fast.bench.parity import ParityError
from betavae_fast.bench.registry import DIRECTIONS, DTYPES, Contender, Direction, Forward, Op, Problem, Shape
from betavae_fast.bench.results import CheckedProblem, Measurement, Results
from betavae_fast.bench.timing import Effort, Task, clock_of, interleave
from betavae_fast.system_memory import available_memory

# Memory for the forward passes that are prepared for a backward sample and stay alive until it ends.
_PREPARED_BYTES = 256 << 20
# Rows on which the formula is timed to predict its time for a whole batch. With fewer, a GPU would only time launches.
_FEW_ROWS = {"cpu": 512, "cuda": 4096}
# Number of tensors the float64 formula holds: intermediates, inputs and gradients.
_PARITY_TENSORS = 24
_NOT_REACHED = "the run ended before it"


def run(
    op: Op,
    shapes: Sequence[Shape],
    dtypes: Sequence[str],
    device: torch.device,
    *,
    origin: dict[str, Any],
    effort: Effort | None = None,
    contenders: Sequence[str] | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Results]:
    """Measure every shape in every dtype, one after the other. After each, the results so far are yielded.

    A contender that fails is among the results' ``failures``, and the others are still measured.

    Args:
        origin: the fields of ``Provenance``.
        contenders: names of the contenders to measure; None for all that need not be requested by name.
        seed: the seed of the problems' numbers.
        time_limit: seconds after which no further problem is begun.
        watch: makes a context manager from a problem's name; it is active while the problem is measured.
    """
    effort = effort or Effort()
    problems = {f"{op.name} {shape} {dtype}": (shape, dtype) for shape in shapes for dtype in dtypes}
    results = Results(
        **origin,
        op=op.name,
        configuration=asdict(effort) | {"shapes": list(shapes), "dtypes": list(dtypes), "seed": seed},
        parity=(),
        measurements=(),
        left_out=dict.fromkeys(problems, _NOT_REACHED),
    )
    start = time.monotonic()
    for name, (shape, dtype) in problems.items():
        if time_limit is not None and time.monotonic() - start > time_limit:
            why = f"the time limit of {time_limit:g} s was reached"
        else:
            why = op.unfit(shape) or too_large(shape, device)
        if why:
            results = replace(results, left_out=results.left_out | {name: why})
        else:
            with watch(name):
                checked, found = measure(op, shape, dtype, device, effort, contenders, seed)
            results = replace(
                results,
                parity=(*results.parity, checked),
                measurements=(*results.measurements, *found),
                left_out={other: why for other, why in results.left_out.items() if other != name},
            )
        yield results


def measure(
    op: Op,
    shape: Shape,
    dtype: str,
    device: torch.device,
    effort: Effort,
    contenders: Sequence[str] | None,
    seed: int,
) -> tuple[CheckedProblem, list[Measurement]]:
    """Check all contenders on one problem, then time those that agree with the formula."""
    problem = op.setup(shape, DTYPES[dtype], device, seed)
    absent, forwards = line_up(op, shape, device, contenders)
    absent |= leave_out_uncompilable(problem, forwards)
    errors, failed = leave_out_wrong(op, problem, forwards)
    by_name = {contender.name: forward for contender, forward in forwards.items()}
    return CheckedProblem(op.name, shape, dtype, tuple(errors), absent, failed), [
        m
        for direction in (DIRECTIONS if by_name else ())
        for m in _time(op, shape, dtype, direction, problem, by_name, effort)
    ]


def line_up(
    op: Op, shape: Shape, device: torch.device, names: Sequence[str] | None = None
) -> tuple[dict[str, str], dict[Contender, Forward]]:
    """The absent contenders, each with the reason, and the forward functions of the others.

    Resets torch.compile, so that no contender uses code compiled for an earlier problem.
    """
    torch.compiler.reset()
    absent: dict[str, str] = {}
    forwards: dict[Contender, Forward] = {}
    for contender in op.contenders(device.type):
        if names is not None and contender.name not in names:
            absent[contender.name] = "not asked for"
        elif names is None and contender.on_request:
            absent[contender.name] = "measured only if asked for by name"
        elif contender.missing:
            absent[contender.name] = contender.missing
        elif contender.max_elements is not None and op.size(shape) > contender.max_elements:
            absent[contender.name] = f"measured up to {contender.max_elements} elements only"
        else:
            forwards[contender] = contender.build()
    return absent, forwards


def leave_out_uncompilable(problem: Problem, forwards: dict[Contender, Forward]) -> dict[str, str]:
    """Remove the contenders that torch.compile cannot compile here, for example because headers are missing.

    Returns: the reasons by contender.
    """
    absent: dict[str, str] = {}
    for contender in [c for c in forwards if c.name.startswith("compile")]:
        try:
            forwards[contender](problem.inputs, None)
        except TorchDynamoException as error:
            absent[contender.name] = f"torch.compile failed: {str(error).strip().splitlines()[0]}"
            del forwards[contender]
    return absent


def leave_out_wrong(
    op: Op, problem: Problem, forwards: dict[Contender, Forward]
) -> tuple[list[parity.Error], dict[str, str]]:
    """Remove the contenders that raise an error or compute something else.

    Returns: the errors of the remaining contenders, and the reasons for the removed ones by name.
    """
    formula = parity.formula_of(op, problem)
    errors: list[parity.Error] = []
    failed: dict[str, str] = {}
    for contender, forward in list(forwards.items()):
        try:
            errors += parity.check(op, problem, {contender: forward}, formula)
        except ParityError as error:
            lines = str(error).splitlines()
            failed[contender.name] = "; ".join(line.removeprefix(f"{contender.name}, ") for line in lines)
        except Exception as error:  # from a compiler or a kernel; the others can still be measured
            said = str(error).strip().splitlines()
            failed[contender.name] = f"{type(error).__name__}: {said[0] if said else 'without a message'}"
        if contender.name in failed:
            del forwards[contender]
    return errors, failed


def too_large(shape: Shape, device: torch.device) -> str:
    """The reason if too little memory is free to check this problem, else "", also if the system does not tell."""
    try:
        free = available_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    except ValueError:
        return ""
    needed = _PARITY_TENSORS * 8 * prod(shape)
    return f"needs {needed >> 30} GiB of memory, {free >> 30} GiB are free" if needed > free else ""


def check_seconds(op: Op, shape: Shape, dtype: str, device: torch.device) -> float:
    """The approximate seconds of a problem's parity check, extrapolated from the formula's time on a smaller batch."""
    few = (min(shape[0], _FEW_ROWS[device.type]), *shape[1:])
    problem = op.setup(few, DTYPES[dtype], device, 0)
    clock = clock_of(device)
    _, seconds = (clock(lambda: parity.in_dtype(op, problem, torch.float64)) for _ in range(2))
    _, forwards = line_up(op, shape, device)
    # The formula runs in float64 and in the contenders' dtype, once with given noise and once with each contender's own.
    times = 2 if op.recover_noise is None else 2 + 2 * len(forwards)
    return times * seconds * op.size(shape) / op.size(few)


def task(direction: Direction, name: str, problem: Problem, forward: Forward, max_calls: int) -> Task:
    """The timed call of a contender. It draws its own noise, and its forward pass saves what backward needs."""
    inputs, leaves = problem.inputs, problem.leaves
    run = partial(forward, inputs, None)
    grads = problem.grads_like(run())

    def backward(outputs: tuple[Tensor, ...]) -> object:
        return torch.autograd.grad(outputs, leaves, grads)

    if direction == "forward":
        return Task(name, lambda _: run())
    if direction == "backward":
        return Task(name, backward, prepare=run, max_calls=max_calls)
    return Task(name, lambda _: backward(run()))


def _time(
    op: Op,
    shape: Shape,
    dtype: str,
    direction: Direction,
    problem: Problem,
    forwards: dict[str, Forward],
    effort: Effort,
) -> Iterator[Measurement]:
    device, cost = problem.inputs[0].device, op.cost_of(direction)
    moved = cost.bytes(shape, DTYPES[dtype])
    transcendentals, arithmetic, integer = cost.operations(shape)
    in_cache = copying.fits_in_cache(moved, device)
    # CUDA graphs reuse their outputs' memory, so that only one forward pass can be alive at a time.
    max_calls = 1 if device.type == "cuda" else max(1, min(1000, _PREPARED_BYTES // (2 * moved)))
    tasks = [task(direction, name, problem, forward, max_calls) for name, forward in forwards.items()]
    footprints = {task.name: footprint(task, device) for task in tasks}
    timings = interleave(
        (*tasks, *copying.copy_tasks(moved, device)), clock_of(device, flush=not in_cache), effort
    )
    copy = copying.gigabytes_per_second(copying.memory_copy_bytes(device), timings.pop(copying.MEMORY))
    same_size = timings.pop(copying.SAME_SIZE, None)
    cache_copy = None if same_size is None else copying.gigabytes_per_second(moved, same_size)
    for name, timing in timings.items():
        yield Measurement(
            **asdict(timing),
            **asdict(footprints[name]),
            op=op.name,
            shape=shape,
            dtype=dtype,
            direction=direction,
            contender=name,
            bytes=moved,
            transcendentals=transcendentals,
            arithmetic=arithmetic,
            integer=integer,
            copy_gigabytes_per_second=copy,
            cache_copy_gigabytes_per_second=cache_copy,
        )
