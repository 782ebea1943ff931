"""Channels are named by what they follow, with the rules that the report states."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation.factor_table import FactorTable
from betavae_fast.evaluation.learned import Learned, Unfollowed, what_was_learned
from betavae_fast.evaluation.summary import Channel, Summary

NAMES = ("shape", "posX", "posY")


def learned(*shares: tuple[float, float, float], used: int | None = None) -> Learned:
    """Name the channels of a model with these shares, of which the first ``used`` are in use."""
    count = len(shares) if used is None else used
    channels = [Channel(i, 3.0 - 0.5 * i, 2.0, 1.0 - 0.5 * i, i < count) for i in range(len(shares))]
    summary = Summary(128, 60.0, 70.0, 76.0, 100.0, 0.0, 6.0, channels)
    table = FactorTable(NAMES, np.zeros((1, 3), dtype=int), np.array(shares), (), ())
    return what_was_learned(summary, table)


def test_a_channel_follows_the_factor_that_it_knows_alone():
    found = learned((0.01, 0.02, 0.63), (0.02, 0.3, 0.04))
    assert [(row.channel.index, row.name, row.relation) for row in found.channels] == [
        (1, "posX", "follows"),
        (0, "posY", "follows"),
    ]
    assert found.channels[1].sentence == (
        "Channel 0 (3.0 nats) follows posY: it knows 63% of the factor's entropy; no other channel in use "
        "knows more than 4%."
    )
    assert found.unfollowed == (Unfollowed("shape", 1, 0.02),)
    assert found.rest == "No channel follows shape (channel 1 knows the most, 2% of its entropy)."


@pytest.mark.parametrize("share, relation", [(0.25, "follows"), (0.24, "none")])
def test_a_channel_follows_from_a_quarter_of_the_entropy_on(share, relation):
    (row,) = learned((0.0, share, 0.0)).channels
    assert row.relation == relation
    assert "no other channel is in use" in row.sentence or relation == "none"


@pytest.mark.parametrize("other, relation", [(0.2, "follows"), (0.21, "shares")])
def test_a_factor_is_shared_if_the_next_channel_knows_more_than_half_as_much(other, relation):
    found = learned((0.0, 0.4, 0.0), (0.0, other, 0.0))
    assert found.channels[0].relation == relation
    if relation == "shares":
        assert "shares posX with channel 1: they know 40% and 21%" in found.channels[0].sentence
        assert [rest.factor for rest in found.unfollowed] == [
            "shape",
            "posY",
        ]  # the sentence above tells of posX


def test_an_unused_channel_is_no_rival():
    """Its mean code may know a factor, but the decoder sees none of it."""
    found = learned((0.0, 0.4, 0.0), (0.3, 0.4, 0.0), used=1)
    (row,) = found.channels
    assert row.relation == "follows" and row.known[0].next_channel is None
    assert found.unfollowed[0] == Unfollowed("shape", 0, 0.0)


@pytest.mark.parametrize(
    "shares, relation",
    [
        ((0.0, 0.4, 0.21), "mixes"),
        ((0.0, 0.4, 0.2), "follows"),
        ((0.0, 0.15, 0.1), "mixes"),
        ((0.0, 0.15, 0.09), "none"),
    ],
)
def test_a_channel_mixes_factors_that_it_knows_similarly_well(shares, relation):
    found = learned(shares)
    (row,) = found.channels
    assert row.relation == relation
    if relation == "mixes":
        assert row.name == "posX and posY, mixed"
        assert [rest.factor for rest in found.unfollowed] == list(NAMES)  # none is shown alone
        assert row.sentence.endswith(f"it knows {shares[1]:.0%} and {shares[2]:.0%} of their entropies.")
    elif relation == "none":
        assert row.name == "No factor"
        assert row.sentence.endswith("follows no factor: it knows posX best, 15% of the factor's entropy.")


def test_rows_are_sorted_by_what_they_follow():
    found = learned((0.02, 0.03, 0.01), (0.0, 0.0, 0.5), (0.2, 0.19, 0.0), (0.9, 0.0, 0.0))
    assert [(row.channel.index, row.relation) for row in found.channels] == [
        (3, "follows"),
        (1, "follows"),
        (2, "mixes"),
        (0, "none"),
    ]


def test_without_a_channel_in_use_all_factors_are_left():
    found = learned((0.4, 0.0, 0.0), used=0)
    assert found.channels == ()
    assert found.rest == "No channel follows shape, posX or posY."


def test_without_factors_the_rows_are_the_channels_by_their_kls():
    channels = [
        Channel(2, 2.0, 1.0, 1.0, True),
        Channel(0, 1.5, 1.0, 0.5, True),
        Channel(1, 0.0, 0.0, 0.0, False),
    ]
    found = what_was_learned(Summary(128, 60.0, 70.0, 73.5, 100.0, 0.0, 3.5, channels), None)
    assert [row.sentence for row in found.channels] == [
        "Channel 2 carries 2.0 nats.",
        "Channel 0 carries 1.5 nats.",
    ]
    assert [row.name for row in found.channels] == ["Channel 2", "Channel 0"]
    assert found.rest is None
