"""``betavae-fast bench``: figures for the requested shapes, or one line with the reason why not."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from betavae_fast import cli
from betavae_fast.bench import contenders, runner
from betavae_fast.bench.registry import get, op_names
from betavae_fast.bench.results import Results
from betavae_fast.bench.runner import line_up
from betavae_fast.bench.timing import QUICK
from betavae_fast.choices import BenchOp


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Take few samples, and leave out torch.compile, which takes longer than everything else."""
    monkeypatch.setattr("betavae_fast.bench.timing.BRIEF", QUICK)
    monkeypatch.setattr(contenders, "no_compiler", lambda device: "left out of this test")


def test_the_command_line_names_every_op():
    assert get_args(BenchOp) == op_names()


def test_what_takes_long_says_so_beforehand(monkeypatch, capsys):
    monkeypatch.setattr("betavae_fast.bench.runner.check_seconds", lambda *problem: 600.0)
    assert _bench("--batch", "8", "--latent-dim", "2") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "about 10 minutes" in printed.partition("eager")[0]


def test_a_check_is_foretold_from_fewer_rows(monkeypatch):
    """The work of the formula grows with the rows or with their square. If contenders draw their own noise, it runs once
    for each contender.
    """
    monkeypatch.setattr(runner, "clock_of", lambda device: lambda work: 1.0)
    device = torch.device("cpu")
    latent, log_densities = get("latent"), get("log_densities")
    _, forwards = line_up(latent, (2048, 10), device)
    assert runner.check_seconds(latent, (2048, 10), "fp32", device) == 4 * (2 + 2 * len(forwards))
    assert runner.check_seconds(log_densities, (32768, 10), "fp32", device) == 64**2 * 2


def _bench(*options: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--device", "cpu", *options])
    return stop.value.code


@pytest.mark.parametrize("op", ["latent", "bernoulli_nll", "laplace_nll", "log_densities"])
def test_it_says_what_is_gained(op, tmp_path, capsys):
    out = tmp_path / "figures.json"
    options = ("--op", op, "--batch", "24", "--latent-dim", "3", "--image", "1x4x5", "--out", str(out))
    assert _bench(*options) == 0
    printed = capsys.readouterr().out
    results = Results.load(out)
    shape = (24, 1, 4, 5) if op.endswith("nll") else (24, 3)
    assert {m.shape for m in results.measurements} == {shape}
    assert all(m.peak_bytes is not None for m in results.measurements)
    assert "eager" in printed and "forward+backward" in printed and "left out of this test" in printed
    ours = {m.contender for m in results.measurements} - {"eager", "distributions", "reference"}
    if ours:
        assert "instead of" in printed and "with eager PyTorch" in printed


def test_half_precision_is_measured_in_half_precision(tmp_path, capsys):
    out = tmp_path / "[red]" / "figures.json"  # the name of a folder, not a colour
    assert _bench("--batch", "16", "--latent-dim", "4", "--dtype", "bf16", "--out", str(out)) == 0
    assert {row["dtype"] for row in json.loads(out.read_text())["measurements"]} == {"bf16"}
    assert f"Written to {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--batch", "0"), "batch must be at least 1, got 0"),
        (("--latent-dim", "-3"), "latent-dim must be at least 1, got -3"),
        (("--threads", "0"), "this machine's CPUs, got 0"),
        (("--threads", str(10**8)), "this machine's CPUs, got 100000000"),
        (("--seed", str(2**64)), "seed must lie in [-2^63, 2^64)"),
        (("--image", "64x64"), "CxHxW"),
        (("--device", "tpu9"), "tpu9"),
        (("--dtype", "int8"), "int8"),
        (("--batch", str(10**12)), "GiB of memory"),
        (("--op", "log_densities", "--batch", "1"), "a batch of 2"),
        (("--op", "log_densities", "--latent-dim", "1"), "is always 0: one channel has no"),
        (("--op", "log_densities", "--batch", str(10**6)), "a batch of 2 to 32768"),
        (("--out", "/dev/null/figures.json"), "/dev/null"),
        (("--out", "."), "is a folder"),
    ],
)
def test_what_cannot_be_measured_is_named(options, named, capsys):
    assert _bench(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("betavae-fast: ") and error.count("\n") == 1 and named in error


def test_a_contender_that_computes_something_else_ends_it(monkeypatch, capsys):
    monkeypatch.setattr("betavae_fast.bench.latent.eager", lambda inputs, noise: inputs)
    assert _bench("--batch", "8") == 1
    printed = capsys.readouterr()
    assert "no time is reported" in printed.err and "instead of" not in printed.out


def test_what_torch_cannot_compile_is_left_out_with_the_reason(monkeypatch, capsys):
    monkeypatch.setattr(contenders, "no_compiler", lambda device: "")
    monkeypatch.setattr(contenders, "compiled", lambda eager, mode: _uncompilable)
    assert _bench("--batch", "8", "--latent-dim", "2") == 0
    assert "without compile: torch.compile failed: no Python.h in [/usr]" in " ".join(
        capsys.readouterr().out.split()
    )


def _uncompilable(inputs, noise):
    raise TorchDynamoException("no Python.h in [/usr]\n\nSet TORCH_LOGS")


def test_a_half_precision_sum_over_many_pixels_is_finite(tmp_path):
    """The eager sum of float16 losses would exceed 65504."""
    out = tmp_path / "figures.json"
    options = ("--dtype", "fp16", "--batch", "32", "--image", "1x64x64", "--out", str(out))
    assert _bench("--op", "bernoulli_nll", *options) == 0
    assert all(e.error < 0.01 for problem in Results.load(out).parity for e in problem.errors)


@pytest.mark.parametrize(("shape", "runs"), [((1024, 32), True), ((8192, 1), False)])
def test_eager_pairs_are_measured_where_they_fit_into_memory(shape, runs):
    """Eager keeps B × B × D numbers, more at (8192, 1) than at (1024, 32)."""
    absent, _ = line_up(get("log_densities"), shape, torch.device("cpu"))
    assert ("eager" not in absent) == runs


def test_a_system_that_does_not_tell_its_memory_refuses_nothing(monkeypatch):
    def untold():
        raise ValueError("this system does not tell how much memory it has")

    monkeypatch.setattr(runner, "available_memory", untold)
    assert runner.too_large((10**6, 10**6), torch.device("cpu")) == ""


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("betavae_fast.bench.runner.run", interrupted)
    assert _bench() == 130
    assert capsys.readouterr().err == "betavae-fast: interrupted\n"
