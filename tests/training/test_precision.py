"""The meaning of precision "auto" on each device, and what a run records of it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from betavae_fast import cli
from betavae_fast.nn import BetaVAE
from betavae_fast.training import precision as decisions
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.loop import train
from betavae_fast.training.precision import autocast, choose_precision, dtype_of, recorded_precision
from betavae_fast.training.resume import read_run, resume
from betavae_fast.training.run_folder import create_run_folder, read_config
from betavae_fast.training.state import prepare
from betavae_fast.training.trained_run import open_run

CPU = torch.device("cpu")
CONFIG = TrainConfig(data="tiny", latent_dim=3, steps=4, batch_size=8, log_every=2, device="cpu")


@pytest.fixture(autouse=True)
def asked_of_the_device(monkeypatch):
    """Restore the real query and measurement, also where --native-bf16 answers for all other tests."""
    monkeypatch.setattr(decisions, "_speedups", {})
    for name in ("has_native_bf16", "bf16_speedup"):
        monkeypatch.setattr(decisions, name, inspect.unwrap(getattr(decisions, name)))


@pytest.fixture
def timed(monkeypatch):
    """Let a pass in bfloat16 take the given seconds, in turns, and a pass in float32 one."""

    def pretend(*bf16):
        calls = []

        def seconds(model, images, precision):
            calls.append((len(images), precision))
            return 1.0 if precision is torch.float32 else bf16[len(calls) // 2 % len(bf16)]

        monkeypatch.setattr(decisions, "onednn_has_bf16", lambda: True)
        monkeypatch.setattr(decisions, "_seconds", seconds)
        return calls

    return pretend


@pytest.mark.parametrize(
    "bf16, precision, why",
    [
        ((0.625,), "bf16", "1.60 times as fast as float32 here (measured)"),
        ((1 / 1.1,), "bf16", "1.10 times as fast as float32 here (measured)"),
        ((0.95,), "fp32", "bf16 is 1.05 times as fast here (measured), not 1.1 times"),
        ((1.0,), "fp32", "bf16 is 1.00 times as fast here (measured), not 1.1 times"),
        ((2.0,), "fp32", "bf16 is 0.50 times as fast here (measured), not 1.1 times"),
        ((2.0, 2.0, 0.1), "fp32", "bf16 is 0.50 times as fast here (measured), not 1.1 times"),
    ],
    ids=["faster", "just enough", "hardly faster", "tie", "slower", "fast once"],
)
def test_auto_is_the_faster_precision_on_a_cpu(timed, bf16, precision, why):
    timed(*bf16)
    assert choose_precision(BetaVAE((1, 8, 8), architecture="mlp"), 8, CPU) == (precision, why)


def test_a_cpu_without_bf16_is_not_measured(timed, monkeypatch):
    calls = timed(0.1)
    monkeypatch.setattr(decisions, "onednn_has_bf16", lambda: False)
    choice = choose_precision(BetaVAE((1, 8, 8), architecture="mlp"), 8, CPU)
    assert choice == ("fp32", "oneDNN has no bf16 for this CPU") and not calls


def test_a_network_is_measured_once_for_each_size_and_number_of_threads(timed, threads):
    calls = timed(0.5)
    small, large = (BetaVAE((1, 8, 8), dims, "mlp") for dims in (2, 3))
    measured = []
    for model, rows, count in [(small, 8, 1), (small, 8, 1), (large, 8, 1), (small, 16, 1), (small, 8, 2)]:
        torch.set_num_threads(count)
        choose_precision(model, rows, CPU)
        measured.append(len(calls))
    assert measured[0] == measured[1] < measured[2] < measured[3] < measured[4]
    choose_precision(small, 1000, CPU)
    assert calls[-1][0] == decisions.ROWS


def test_the_process_that_gains_least_decides(timed, monkeypatch):
    timed(0.5)
    monkeypatch.setattr(decisions, "least_of_processes", lambda number: min(number, 103))
    assert choose_precision(BetaVAE((1, 8, 8), architecture="mlp"), 8, CPU).precision == "fp32"


@pytest.mark.parametrize("architecture", ["burgess", "mlp"])
def test_the_measurement_leaves_no_trace(architecture):
    model = BetaVAE((1, 8, 8), 3, architecture)
    model(torch.zeros(2, 1, 8, 8), seed=0).kl.sum().backward()
    before = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    generator = torch.get_rng_state()
    with torch.no_grad():
        for precision in (torch.float32, torch.bfloat16):
            assert decisions._seconds(model, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), precision) > 0
    assert torch.equal(torch.get_rng_state(), generator)
    for parameter, (weight, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weight) and parameter.requires_grad
        assert (gradient is None and parameter.grad is None) or torch.equal(parameter.grad, gradient)


def test_a_run_that_measured_is_a_run_that_was_told(dataset, timed, tmp_path):
    timed(2.0)
    runs = []
    for name, precision in (("chosen", "auto"), ("told", "fp32")):
        state = prepare(replace(CONFIG, precision=precision), dataset)
        train(state, create_run_folder(state.config, tmp_path / name))
        runs.append(state)
    assert runs[0].config == runs[1].config
    for a, b in zip(*(state.model.parameters() for state in runs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("first, now, chosen", [(0.5, 2.0, "bf16"), (2.0, 0.5, "fp32")])
@pytest.mark.parametrize("stopped_at", [0, 2])
def test_a_resumed_run_keeps_its_precision(dataset, timed, tmp_path, first, now, chosen, stopped_at):
    timed(first)
    whole = prepare(CONFIG, dataset)
    train(whole, create_run_folder(whole.config, tmp_path / "whole"))
    state = prepare(CONFIG, dataset)
    assert (state.config.precision, state.precision) == (chosen, dtype_of(chosen))
    folder = create_run_folder(state.config, tmp_path / "run")
    if stopped_at:
        train(state, folder, should_stop=lambda: state.step == stopped_at)
    assert read_config(folder).precision == chosen

    decisions._speedups.clear()
    calls = timed(now)
    config, checkpoint = read_run(folder)
    resumed = resume(folder, config, checkpoint, dataset)
    assert (resumed.precision, resumed.why_precision) == (dtype_of(chosen), "") and not calls
    train(resumed, folder)
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert open_run(folder.path, "cpu").precision is dtype_of(chosen)


@pytest.mark.parametrize("native", [True, False])
def test_a_run_that_recorded_auto_goes_on_as_before(dataset, timed, tmp_path, monkeypatch, native):
    """Earlier versions chose by the instruction set alone, and did not record it."""
    monkeypatch.setattr(decisions, "has_native_bf16", lambda device: native)
    folder = create_run_folder(CONFIG, tmp_path / "run")
    calls = timed(2.0 if native else 0.5)
    state = resume(folder, *read_run(folder), dataset)
    assert state.config.precision == read_config(folder).precision == ("bf16" if native else "fp32")
    assert not calls


@pytest.mark.parametrize("bf16, precision", [(0.5, "bf16"), (2.0, "fp32")])
def test_the_first_lines_say_what_was_chosen_and_why(tmp_path, monkeypatch, timed, capfd, bf16, precision):
    timed(bf16)
    monkeypatch.chdir(tmp_path)
    np.save("tiny.npy", np.zeros((16, 8, 8), dtype=bool))
    options = ["--data=tiny.npy", "--steps=2", "--batch-size=8", "--latent-dim=2", "--device=cpu"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *options, "--out=run"])
    assert exit_.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    (line,) = [
        number for number, text in enumerate(lines[:4]) if text.startswith(f"Precision: {precision}, ")
    ]
    assert "here (measured)" in lines[line]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["precision"] == precision
    with pytest.raises(SystemExit):
        cli.main(["train", "--resume=run", "--steps=3"])
    assert "Precision: " not in capfd.readouterr().out


def test_help_says_that_it_is_measured(capfd):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "measured at the start" in " ".join(capfd.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    "capabilities, native",
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"architecture": "aarch64", "bf16": False}, False),
        ({"architecture": "abacus"}, False),
    ],
    ids=str,
)
def test_a_recorded_auto_is_bf16_on_cpus_with_matrix_units_for_it(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert recorded_precision("auto", CPU) == ("bf16" if native else "fp32")
    assert recorded_precision("fp32", CPU) == "fp32"
    assert recorded_precision("bf16", CPU) == "bf16"


def test_a_torch_that_cannot_tell_means_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert recorded_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products_are_in_the_precision_even_within_another_autocast(precision):
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), autocast(CPU, precision):
        assert (x @ x).dtype is precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bf16_on_gpus_since_ampere():
    native = torch.cuda.get_device_capability() >= (8, 0)
    model = BetaVAE().cuda()
    assert choose_precision(model, 8, torch.device("cuda")).precision == ("bf16" if native else "fp32")
