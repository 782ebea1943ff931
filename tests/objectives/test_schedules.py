"""The ramp and the geometric fall, at their ends and between them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from betavae_fast.objectives import geometric, ramp


def values(at, *arguments):
    return [float(ramp(torch.tensor(step), *arguments)) for step in at]


def test_without_steps_it_is_constant_to_the_last_bit():
    assert values((0, 1, 2499), 0.1, 0) == [0.1] * 3


def test_it_grows_from_nothing_and_stays():
    assert values(range(6), 2.0, 4) == [0, 0.5, 1, 1.5, 2, 2]
    assert values((0, 99_999, 100_000, 10**9), 25.0, 100_000) == [0, pytest.approx(24.99975), 25, 25]


def test_cycles_start_again_from_nothing():
    assert values(range(9), 1.0, 2, 4) == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0]
    # Fu et al. 2019, equation 6, with t from 1: M cycles in T steps, where the first part (R, a half) of each cycle
    # grows.
    T, M, R = 400, 4, 0.5
    published = [min(1.0, ((t - 1) % (T // M)) / (T / M) / R) for t in range(1, T + 1)]
    assert values(range(T), 1.0, T // M // 2, T // M) == pytest.approx(published, rel=1e-15)


def test_steps_beyond_float32_are_told_apart():
    at, steps = 2**24, 2**26
    assert len(set(values(range(at, at + 4), 4.0, steps))) == 4


def test_a_geometric_fall_is_exact_at_its_ends_and_loses_the_same_factor_in_each_step():
    start, end, hold, steps = 40.0, 0.3, 5, 7
    fall = [float(geometric(torch.tensor(step), start, end, hold, steps)) for step in range(20)]
    assert fall[: hold + 1] == [start] * 6
    assert fall[hold + steps :] == [end] * 8
    factors = [after / before for before, after in pairwise(fall[5:13])]
    assert factors == pytest.approx([(end / start) ** (1 / steps)] * 7, rel=1e-14)


def test_a_geometric_weight_may_rise():
    assert [float(geometric(torch.tensor(step), 1.0, 4.0, 0, 2)) for step in range(4)] == [1, 2, 4, 4]
