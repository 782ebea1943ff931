"""The benchmark of models side by side, as far as it can be tested without a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import side_by_side
from benchmarks.side_by_side import SideBySide
from betavae_fast.data.images import ByteImages
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.state import prepare

TINY = ["--device", "cpu", "--tiny", "6", "--models", "1", "3"]


def test_on_a_cpu_it_runs_and_writes_both_ways(tmp_path, capsys):
    out = tmp_path / "side-by-side.json"
    assert side_by_side.main([*TINY, "--out", str(out)]) == 0
    results = SideBySide.load(out)
    assert [(t.models, t.way) for t in results.together] == [
        (k, w) for k in (1, 3) for w in side_by_side.WAYS
    ]
    assert all(t.images_per_second > 0 and t.memory is None for t in results.together)
    assert "1.00" in capsys.readouterr().out  # of one model


def test_both_ways_train_the_same_models():
    pixels = torch.randint(
        0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    dataset = ByteImages("tiny", pixels, (1, 8, 8))
    config = TrainConfig(
        architecture="mlp", batch_size=8, steps=6, log_every=3, device="cpu", precision="fp32"
    )
    trained = []
    for train in side_by_side.WAYS.values():
        states = [prepare(config, dataset) for _ in range(2)]
        assert len(train(states, 3)) == 2
        trained.append([p for state in states for p in state.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_models_that_do_not_fit_are_named_and_the_others_measured(monkeypatch, tmp_path, capsys):
    def train(states, interval):
        if len(states) > 1:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate\nmore than there is")
        return [1.0, 2.0, 4.0]

    monkeypatch.setitem(side_by_side.WAYS, "a graph each", train)
    out = tmp_path / "side-by-side.json"
    assert side_by_side.main([*TINY, "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "FAILED side by side, 3 models, a graph each: out of memory. Tried to allocate\n" in said
    found = {(t.models, t.way): t.images_per_second for t in SideBySide.load(out).together}
    assert found[1, "a graph each"] == pytest.approx(3.0) and (3, "one graph") in found
