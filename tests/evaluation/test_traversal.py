"""A traversal moves the channel it names, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.summary import Channel
from betavae_fast.evaluation.traversal import strips, traverse, write_traversal
from betavae_fast.nn import BetaVAE


def test_each_cell_is_the_decoded_mean_with_one_channel_moved():
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=3).eval()
    image = torch.rand(1, 8, 8)
    channels, values = [2, 0], [-3.0, 0.0, 1.5]

    images = traverse(model, image, channels, values)

    assert images.shape == (2, 3, 1, 8, 8)
    mu, _ = model.encode(image.unsqueeze(0))
    for row, channel in enumerate(channels):
        for column, value in enumerate(values):
            z = mu.clone()
            z[0, channel] = value
            torch.testing.assert_close(images[row, column], model.decode(z).sigmoid()[0])


@pytest.mark.parametrize("start", [None, torch.zeros(1, 8, 8)])
def test_the_picture_says_where_the_other_channels_stay(start, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: told.append(figure.get_suptitle()))
    model = BetaVAE((1, 8, 8), latent_dim=2).eval()
    write_traversal(tmp_path / "t.png", model, start, [Channel(0, 1.0, 1.0, 0.0, True)], columns=3)
    assert ("stay at the prior's mean" if start is None else "stay at one image's posterior mean") in told[0]


def test_each_strip_is_the_traversal_of_its_channel():
    torch.manual_seed(0)
    model = BetaVAE((1, 8, 8), latent_dim=3).eval()
    image = torch.rand(1, 8, 8)
    drawn = strips(model, image, [Channel(index, 1.0, 1.0, 0.0, True) for index in (2, 0)])
    moved = traverse(model, image, [2, 0], torch.linspace(-3, 3, 11)).numpy()
    assert len(drawn) == 2 and drawn[0].tobytes() != drawn[1].tobytes()
    for picture, images in zip(drawn, moved, strict=True):
        difference = np.asarray(picture, dtype=int) - np.asarray(pictures.strip(images), dtype=int)
        assert abs(difference).max() <= 1  # steps are rounded to six digits
    assert strips(model, image, []) == []


def test_a_channel_the_model_does_not_have_is_refused():
    with pytest.raises(IndexError, match="3"):
        traverse(BetaVAE((1, 8, 8), latent_dim=3), torch.rand(1, 8, 8), [3], [0.0])
