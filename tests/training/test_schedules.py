"""The schedules' values, and that the default run has none."""

from __future__ import annotations

import math

import pytest
import torch

from betavae_fast.training.config import TrainConfig
from betavae_fast.training.schedules import kl_weight, learning_rate


def values(schedule, at, **options):
    config = TrainConfig(**options)
    return [float(schedule(torch.tensor(step), config)) for step in at]


def test_by_default_both_are_constant_to_the_last_bit():
    assert values(learning_rate, (0, 1, 2499), lr=0.1) == [0.1] * 3
    assert values(kl_weight, (0, 1, 2499), beta=0.1) == [0.1] * 3


def test_the_learning_rate_warms_up_to_a_half_cosine():
    found = values(learning_rate, range(40), lr=0.3, lr_schedule="cosine", lr_warmup=8, steps=40)
    for step, rate in enumerate(found):
        expected = 0.3 * (1 + math.cos(math.pi * step / 40)) / 2 * min(1, (step + 1) / 8)
        assert rate == pytest.approx(expected, rel=1e-12), step
    assert values(learning_rate, [40], lr_schedule="cosine", steps=40) == [0]


def test_beta_warms_up_from_nothing():
    assert values(kl_weight, range(6), beta=2.0, beta_warmup=4) == [0, 0.5, 1, 1.5, 2, 2]


def test_steps_beyond_float32_are_told_apart():
    at, steps = 2**24, 2**26
    assert len(set(values(kl_weight, range(at, at + 4), beta_warmup=steps))) == 4
