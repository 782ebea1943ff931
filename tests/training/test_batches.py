"""The data order."""

from __future__ import annotations

import pytest
import torch

from betavae_fast.training.batches import ShuffledBatches


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    batches = ShuffledBatches(dataset_size=12, batch_size=4, seed=0)
    epochs = [torch.cat([batches[3 * epoch + batch] for batch in range(3)]) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(*epochs)


def test_a_step_is_the_same_however_it_is_reached():
    straight = ShuffledBatches(dataset_size=10, batch_size=4, seed=7)
    in_order = [straight[step] for step in range(8)]
    jumping = ShuffledBatches(dataset_size=10, batch_size=4, seed=7)
    for step in (7, 0, 5, 5, 2):
        assert torch.equal(jumping[step], in_order[step])


def test_neighbouring_seeds_and_epochs_share_no_order():
    orders = [
        tuple(ShuffledBatches(dataset_size=8, batch_size=8, seed=seed)[epoch].tolist())
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == 16


def test_images_left_over_sit_out():
    batches = ShuffledBatches(dataset_size=10, batch_size=4, seed=0)
    assert batches.per_epoch == 2
    assert len(set(torch.cat([batches[0], batches[1]]).tolist())) == 8


def test_a_data_set_smaller_than_a_batch_is_named():
    with pytest.raises(ValueError, match="batch_size 64 is larger than the data set, which has 40 images"):
        ShuffledBatches(dataset_size=40, batch_size=64, seed=0)
