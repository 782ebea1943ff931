"""The advice for runs that have learned little, and none for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from betavae_fast.evaluation.advice import advice
from betavae_fast.evaluation.findings import reconstruction
from betavae_fast.evaluation.summary import Channel, Summary
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry

GOOD = Summary(
    128, 60.0, 70.0, 76.0, 100.0, 0.0, 6.0, [Channel(index, 3.0, 1.0, 2.0, True) for index in range(2)]
)
CONFIG = TrainConfig(steps=100)


def history(*losses: float) -> list[LogEntry]:
    return [
        LogEntry(step, 64 * step, 1.0, 64.0, loss, loss, 0.0, [0.0], [0.0], [0.0])
        for step, loss in enumerate(losses, 1)
    ]


def with_channels(active: int) -> Summary:
    return replace(GOOD, channels=[Channel(index, 1.0, 0.5, 0.5, index < active) for index in range(4)])


LEVEL = history(*(90.0 - 20 * min(step, 30) / 30 for step in range(50)))


def test_a_run_that_learned_gets_none():
    assert advice(GOOD, LEVEL, CONFIG) == []
    assert advice(GOOD, history(70.0), CONFIG) == []


@pytest.mark.parametrize("end, said", [(75.0, False), (77.0, True), (130.0, True)])
def test_a_training_that_came_apart_is_told_with_its_best_step(end, said):
    """From 100 to 70 nats, 30 nats were gained. A fifth of them may go by the noise of a batch."""
    found = advice(GOOD, history(95.0, 80.0, 70.0, end), CONFIG)
    assert len(found) == said
    if said:
        assert "had fallen to 70.0 nats by step 3 and ended at" in found[0] and "--lr 0.0003" in found[0]


@pytest.mark.parametrize(
    "settings, remedy",
    [
        ({}, "A lower --beta"),
        ({"likelihood": "gaussian"}, "--scale 0.1"),
        ({"likelihood": "gaussian", "scale": 0.1}, "A lower --beta"),
    ],
)
def test_shut_channels_are_told_with_the_remedy_for_their_likelihood(settings, remedy):
    config = replace(CONFIG, **settings)
    for active, said in ((0, "No channel is"), (1, "Only one channel is")):
        (found,) = advice(with_channels(active), LEVEL, config)
        assert said in found and remedy in found
    assert advice(with_channels(2), LEVEL, config) == []
    assert advice(with_channels(1), LEVEL, replace(config, latent_dim=1)) == []


def test_a_loss_that_still_falls_is_told_with_more_steps():
    falling = history(*(100.0 - step for step in range(40)))
    (found,) = advice(GOOD, falling, CONFIG)
    assert "still fell by 4.0 nats in the last tenth" in found and "--steps 200" in found


def test_the_reconstruction_of_a_density_is_judged_without_its_constant():
    """Without it, 78% of what can be gained would read as 2% below the mean image."""
    gaussian = replace(
        GOOD,
        reconstruction=11371.7,
        mean_image_reconstruction=11647.4,
        least_reconstruction=11292.0,
    )
    assert "78% of the way from the 11647.4 nats" in reconstruction(gaussian)
    assert "to the 11292.0 nats of a perfect one" in reconstruction(gaussian)
    worse = replace(gaussian, reconstruction=11705.4)
    assert "above the 11647.4 nats of a model that always outputs the mean image" in reconstruction(worse)
    assert "40% below the 100.0 nats" in reconstruction(GOOD)
