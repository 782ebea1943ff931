"""The order of the data."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.training.batches import ShuffledBatches


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    batches = ShuffledBatches(dataset_size=12, batch_size=4, seed=0)
    epochs = [batches.epoch(number).flatten() for number in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(*epochs)


def test_an_epoch_is_the_same_whenever_it_is_asked_for():
    straight = ShuffledBatches(dataset_size=10, batch_size=4, seed=7)
    in_order = [straight.epoch(number) for number in range(4)]
    jumping = ShuffledBatches(dataset_size=10, batch_size=4, seed=7)
    for number in (3, 0, 2, 2, 1):
        assert torch.equal(jumping.epoch(number), in_order[number])


def test_neighbouring_seeds_and_epochs_share_no_order():
    orders = [
        tuple(ShuffledBatches(dataset_size=8, batch_size=8, seed=seed).epoch(epoch)[0].tolist())
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == 16


def test_images_left_over_sit_out():
    batches = ShuffledBatches(dataset_size=10, batch_size=4, seed=0)
    assert batches.per_epoch == 2
    assert len(set(batches.epoch(0).flatten().tolist())) == 8


def test_a_data_set_smaller_than_a_batch_is_named():
    with pytest.raises(ValueError, match="batch_size 64 is larger than the data set, which has 40 images"):
        ShuffledBatches(dataset_size=40, batch_size=64, seed=0)
