"""The schedule of the learning rate, which the default run does not have."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.training.config import TrainConfig
from betavae_fast.training.schedules import learning_rate


def values(schedule, at, **options):
    config = TrainConfig(**options)
    return [float(schedule(torch.tensor(step), config)) for step in at]


def test_by_default_it_is_constant_to_the_last_bit():
    assert values(learning_rate, (0, 1, 2499), lr=0.1) == [0.1] * 3


def test_the_learning_rate_warms_up_to_a_half_cosine():
    found = values(learning_rate, range(40), lr=0.3, lr_schedule="cosine", lr_warmup=8, steps=40)
    for step, rate in enumerate(found):
        expected = 0.3 * (1 + math.cos(math.pi * step / 40)) / 2 * min(1, (step + 1) / 8)
        assert rate == pytest.approx(expected, rel=1e-12), step
    assert values(learning_rate, [40], lr_schedule="cosine", steps=40) == [0]


def test_a_cosine_may_begin_late():
    found = values(learning_rate, range(41), lr=0.3, lr_schedule="cosine", lr_hold=30, steps=40)
    assert found[:31] == [0.3] * 31
    assert found[30:] == pytest.approx(
        [0.3 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(11)], abs=1e-15
    )
    assert values(learning_rate, range(20), lr=0.3, lr_schedule="cosine", lr_hold=30, steps=20) == [0.3] * 20
    with pytest.raises(ValueError, match="lr_hold is 5, so lr_schedule must be cosine, got constant"):
        TrainConfig(lr_hold=5)
