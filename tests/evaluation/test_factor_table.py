"""The table of factors and channels, for known codes and factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betavae_fast.data import ByteImages, TableFactors
from betavae_fast.evaluation import factor_table as module
from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.factor_table import FactorTable, factor_table
from betavae_fast.evaluation.findings import findings
from betavae_fast.evaluation.learned import what_was_learned
from betavae_fast.evaluation.summary import Channel, Summary
from tests.evaluation.grid import SIDE, Squares


@pytest.fixture(scope="module")
def table_and_codes():
    dataset = Squares()
    size, x, y = dataset.factors(torch.arange(128))[:, 1:].T.numpy()
    codes = np.stack([x, 2.0 * y + size, np.zeros(128)], axis=1)
    return factor_table(codes, dataset, np.random.default_rng(0)), codes


def told_of(table: FactorTable | None, *active: bool) -> list[str]:
    """The findings about a model of which these channels are in use."""
    channels = [Channel(index, 2.0, 1.0, 1.0, on) for index, on in enumerate(active)]
    summary = Summary(128, 60.0, 70.0, 76.0, 100.0, 0.0, 6.0, channels)
    return findings(summary, what_was_learned(summary, table))


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


class Photographs(TableFactors, ByteImages):
    """Ten images with unequal counts of classes, and without images of the class (1, 2)."""

    factor_names = ("posY", "posX", "rare")
    factor_values = tuple(torch.arange(size, dtype=torch.float64) for size in (2, 4, 2))
    factor_classes = torch.tensor(
        [
            [0, 0, 0],
            [0, 0, 0],
            [0, 0, 0],
            [0, 1, 0],
            [0, 2, 0],
            [1, 0, 0],
            [1, 1, 0],
            [1, 1, 0],
            [0, 3, 0],
            [1, 3, 1],
        ]
    )

    def __init__(self) -> None:
        super().__init__("photographs", torch.zeros(10, 1, 2, 2, dtype=torch.uint8), (1, 2, 2))


def test_means_of_unequal_counts_are_over_the_images_there_are(monkeypatch):
    codes = np.arange(10.0)[:, None]
    table = factor_table(codes, Photographs(), np.random.default_rng(0))
    np.testing.assert_allclose(table.means[0][:, 0], [np.mean([0, 1, 2, 3, 4, 8]), np.mean([5, 6, 7, 9])])
    with np.errstate(all="raise"):
        maps = table.mean_over_grid(codes, "posY", "posX")
    np.testing.assert_allclose(maps, [[[1, 3, 4, 8], [5, 6.5, np.nan, 9]]])
    figure = pictures.position_maps(maps, [Channel(0, 2.0, 1.0, 1.0, True)])
    assert figure.axes[0].images[0].get_clim() == (-9.0, 9.0)
    monkeypatch.setattr(module, "_ROWS", 1)  # a single image is drawn, which has one class of each factor
    with np.errstate(all="raise"):
        assert not factor_table(codes, Photographs(), np.random.default_rng(0)).shares.any()


def test_a_class_without_images_has_no_mean():
    codes = np.arange(3.0)[:, None]
    dataset = Photographs()
    dataset.factor_classes = torch.tensor([[0], [2], [2]])
    dataset.factor_names = ("size",)
    means = factor_table(codes, dataset, np.random.default_rng(0)).means[0][:, 0]
    np.testing.assert_array_equal(means, [0.0, np.nan, 1.5])


def test_many_factors_are_told_in_few_words():
    names = tuple(f"attribute {k}" for k in range(40))
    shares = np.full((1, 40), 0.3)
    table = FactorTable(names, np.zeros((2, 40), int), shares, (), ())
    _, channel, rest, _ = told_of(table, True)
    assert channel == (
        "Channel 0 (2.0 nats) mixes attribute 0, attribute 1, attribute 2, attribute 3 and 36 others: of the first 4 it "
        "knows 30%, 30%, 30% and 30% of their entropies."
    )
    assert rest.startswith(
        "No channel follows attribute 0 (channel 0 knows the most, 30% of its entropy), attribute 1 ("
    )
    assert rest.endswith("attribute 9 (channel 0 knows the most, 30% of its entropy) or 30 others.")


def test_findings_name_what_each_used_channel_follows(table_and_codes):
    table, _ = table_and_codes
    told = told_of(table, True, True, False)
    assert (
        told[0] == "2 of 3 channels are used; together they carry 4.0 nats per image."
    )  # without the unused one
    assert told[1] == (
        "Channel 0 (2.0 nats) follows posX: it knows 100% of the factor's entropy; no other channel in use "
        "knows more than 0%."
    )
    assert told[2] == "Channel 1 (2.0 nats) mixes size and posY: it knows 100% and 100% of their entropies."
    assert told[3].startswith(
        "No channel follows size (channel 1 knows the most, 100% of its entropy) or posY ("
    )
    assert "at the mean code is 60.0 nats per image, 40% below" in told[4]
    assert "At a sampled code" in told[4] and "70.0 nats" in told[4] and "76.0 nats" in told[4]
    assert len(told) == 5  # the unused channel is not mentioned


def test_findings_say_what_is_lost_and_what_is_unused(table_and_codes):
    _, codes = table_and_codes
    blind = factor_table(np.zeros_like(codes), Squares(), np.random.default_rng(0))
    told = told_of(blind, True, False, False)
    assert told[0] == "1 of 3 channels is used; it carries 2.0 nats per image."
    assert told[1].startswith("Channel 0 (2.0 nats) follows no factor")
    assert told[2].startswith("No channel follows size (channel 0 knows the most, 0% of its entropy), posX (")
    assert told_of(None, False, False)[0].startswith("None of 2 channels is used")
