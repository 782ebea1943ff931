"""The table of factors and channels, for known codes and factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betavae_fast.evaluation.factor_table import factor_table
from betavae_fast.evaluation.findings import findings
from betavae_fast.evaluation.summary import Channel, Summary
from tests.evaluation.grid import SIDE, Squares


@pytest.fixture(scope="module")
def table_and_codes():
    dataset = Squares()
    size, x, y = dataset.factors(torch.arange(128))[:, 1:].T.numpy()
    codes = np.stack([x, 2.0 * y + size, np.zeros(128)], axis=1)
    return factor_table(codes, dataset, np.random.default_rng(0)), codes


def summary(*active: bool) -> Summary:
    channels = [Channel(index, 2.0, 1.0, 1.0, on) for index, on in enumerate(active)]
    return Summary(128, 60.0, 70.0, 76.0, 100.0, 6.0, channels)


def test_shares_and_means_of_the_varying_factors(table_and_codes):
    table, _ = table_and_codes
    assert table.names == ("size", "posX", "posY")
    np.testing.assert_allclose(table.shares, [[0, 1, 0], [1, 0, 1], [0, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(table.means[1][:, 0], np.arange(SIDE))
    np.testing.assert_allclose(table.deviations[1][:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(table.means[0][:, 1], [7.0, 8.0])
    np.testing.assert_allclose(table.deviations[0][:, 1], 2 * np.std(np.arange(SIDE)))


def test_the_map_of_positions_has_y_down_and_x_across(table_and_codes):
    table, codes = table_and_codes
    maps = table.mean_over_grid(codes, "posY", "posX")
    y, x = np.mgrid[:SIDE, :SIDE]
    np.testing.assert_allclose(maps, [x, 2.0 * y + 0.5, 0 * x])


def test_findings_name_what_each_used_channel_encodes(table_and_codes):
    table, _ = table_and_codes
    told = findings(summary(True, True, False), table)
    assert told[0] == "2 of 3 channels are used; together they carry 6.0 nats per image."
    assert "at the mean code is 60.0 nats per image, 40% below" in told[1]
    assert "at a sampled code" in told[1].lower() and "70.0 nats" in told[1] and "76.0 nats" in told[1]
    assert told[2] == "Channel 0 (2.0 nats) encodes posX (1.00 of its entropy)."
    assert told[3].startswith("Channel 1 (2.0 nats) encodes size (1.00") and told[3].endswith(", mixed.")
    assert len(told) == 4  # the unused channel is not mentioned, and no factor is missing


def test_findings_say_what_is_lost_and_what_is_unused(table_and_codes):
    _, codes = table_and_codes
    blind = factor_table(np.zeros_like(codes), Squares(), np.random.default_rng(0))
    told = findings(summary(True, False, False), blind)
    assert "tells little about any single factor" in told[2]
    assert told[3].startswith("No channel alone tells anything about size or posX or posY")
    assert findings(summary(False, False), None)[0].startswith("None of 2 channels is used")
