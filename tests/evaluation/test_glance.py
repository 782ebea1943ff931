"""A glance at a model names its channels as the evaluation of all images does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from betavae_fast.data import ByteImages, TableImages
from betavae_fast.data.labelled import FactorColumns
from betavae_fast.evaluation import glance as module
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.factor_table import factor_table
from betavae_fast.evaluation.glance import glance
from betavae_fast.evaluation.learned import what_was_learned
from betavae_fast.evaluation.summary import Channel, Summary, choose_images
from tests.evaluation.grid import Squares

SUMMARY = Summary(128, 60.0, 70.0, 76.0, 100.0, 0.0, 6.0, [Channel(i, 2.0, 1.0, 1.0, True) for i in range(2)])


def codes_of(dataset: Squares, indices: torch.Tensor) -> torch.Tensor:
    """Two channels: posX, and posY with the size."""
    _, size, x, y = dataset.factors(indices).T.float()
    return torch.stack([x, 2 * y + size], 1)


@pytest.mark.parametrize("images", [10_000, 100])
def test_the_same_as_of_all_images(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Squares()
    seen: list[torch.Tensor] = []

    def encode(model: object, of: Squares, indices: torch.Tensor, **_: object) -> Encoding:
        seen.append(indices)
        mu = codes_of(of, indices)
        return Encoding(mu, torch.zeros_like(mu))

    monkeypatch.setattr(module, "encode", encode)
    monkeypatch.setattr(module, "GLANCE_IMAGES", images)
    run = SimpleNamespace(images=lambda: dataset, model=None, precision=torch.float32)
    found = glance(run, SUMMARY)  # type: ignore[arg-type]
    assert found is not None and len(seen[0].unique()) == min(images, 128)
    codes = codes_of(dataset, torch.arange(128)).numpy()
    whole = what_was_learned(SUMMARY, factor_table(codes, dataset, np.random.default_rng(0)))
    assert [row.name for row in found.channels] == [row.name for row in whole.channels]
    assert found.sentences[0].startswith("Channel 0 (2.0 nats) follows posX: it knows 100%")
    assert len(found.sentences) == 3 and found.sentences[-1] == found.rest


def test_factors_that_are_constant_in_the_sample_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor with a single class among the images of the glance must not make the end of a training fail."""
    monkeypatch.setattr(module, "GLANCE_IMAGES", 5)
    images = ByteImages("grey", torch.zeros(50, 1, 8, 8, dtype=torch.uint8), (1, 8, 8))
    rare = np.ones((50, 1), np.int32)
    rare[choose_images(50, 5)] = 0
    dataset = TableImages("grey", images, FactorColumns(("rare",), (np.arange(2.0),), rare))
    zeros = torch.zeros(5, 2)
    monkeypatch.setattr(module, "encode", lambda *_, **__: Encoding(zeros, zeros))
    run = SimpleNamespace(images=lambda: dataset, model=None, precision=torch.float32)
    assert glance(run, SUMMARY) is None  # type: ignore[arg-type]


def test_unknown_factors_are_not_guessed() -> None:
    dataset = ByteImages("grey", torch.zeros(5, 1, 8, 8, dtype=torch.uint8), (1, 8, 8))
    run = SimpleNamespace(images=lambda: dataset)
    assert glance(run, SUMMARY) is None  # type: ignore[arg-type]
