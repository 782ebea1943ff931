"""Pictures show the given numbers at the places where a reader looks for them."""

from __future__ import annotations

import numpy as np
import pytest

from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.summary import Channel

RNG = np.random.default_rng(0)


def shown(axis) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


def test_reconstructions_stand_below_their_originals():
    originals, reconstructed = RNG.random((2, 7, 1, 4, 4))
    figure = pictures.reconstructions(originals, reconstructed, columns=5)
    grid = np.array(figure.axes).reshape(4, 5)
    for position in range(7):
        band, column = divmod(position, 5)
        np.testing.assert_array_equal(shown(grid[2 * band, column]), originals[position, 0])
        np.testing.assert_array_equal(shown(grid[2 * band + 1, column]), reconstructed[position, 0])
    assert not any(axis.axison for axis in grid[2:, 2:].flat)  # the unused places are blank
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["data", "model", "data", "model"]


def test_colour_images_keep_their_colours_and_stay_in_range():
    images = RNG.normal(size=(2, 3, 4, 4))
    axis = pictures.reconstructions(images, images).axes[0]
    np.testing.assert_array_equal(shown(axis), np.moveaxis(images[0].clip(0, 1), 0, -1))


def test_traversal_labels_each_row_with_its_channel_and_nats():
    channels = [Channel(3, 1.92, 1.0, 0.92, active=True), Channel(0, 0.001, 0.0, 0.001, active=False)]
    images = RNG.random((2, 3, 1, 4, 4))
    figure = pictures.traversal(images, channels, [-3.0, 0.0, 3.0])
    grid = np.array(figure.axes).reshape(2, 3)
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["channel 3\n1.920 nats", "channel 0\n0.001 nats"]
    assert [axis.yaxis.label.get_color() for axis in grid[:, 0]] == ["black", pictures.FADED]
    assert [axis.get_title() for axis in grid[0]] == ["-3", "0", "+3"]
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(shown(grid[row, column]), images[row, column, 0])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_strip_has_its_images_from_left_to_right(channels):
    images = RNG.random((3, channels, 32, 16))
    drawn = np.asarray(pictures.strip(images))
    assert drawn.shape == (64, 2 * (3 * 16 + 2), 3)  # each pixel twice, and a white column between images
    shown = np.moveaxis(images if channels == 3 else images[:, :1].repeat(3, axis=1), 1, -1)
    for position in range(3):
        left = position * 2 * 17
        tile = drawn[::2, left : left + 32 : 2]
        np.testing.assert_array_equal(tile, (255 * shown[position]).round())
        np.testing.assert_array_equal(drawn[1::2, left + 1 : left + 32 : 2], tile)
    assert (drawn[:, 32:34] == 255).all()


def test_capacity_panels_are_sorted_and_stack_to_the_total():
    mean_dispersion = np.array([[0.0, 0.5, 0.0], [0.0, 1.5, 0.2]])
    variance = np.array([[0.0, 0.25, 0.0], [0.0, 0.75, 2.5]])
    figure = pictures.capacity([1000, 4000], mean_dispersion, variance)
    assert [axis.get_title() for axis in figure.axes] == [
        "channel 2: 2.700 nats",
        "channel 1: 2.250 nats",
        "channel 0: 0.000 nats",
    ]
    assert "2 channels above" in figure.get_suptitle()
    axis = figure.axes[1]
    below, above = (area.get_paths()[0].vertices for area in axis.collections)
    assert below[:, 1].max() == 1.5 and above[:, 1].max() == 2.25
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), [[1, 0.75], [4, 2.25]])
    (legend,) = figure.legends
    assert [text.get_text().split()[0] for text in legend.get_texts()] == ["mean", "variance"]


@pytest.mark.parametrize("channels, columns, panels", [(1, 1, 1), (7, 5, 10), (64, 5, 20)])
def test_capacity_copes_with_few_and_many_channels(channels, columns, panels):
    parts = RNG.random((4, channels))
    figure = pictures.capacity([1, 2, 3, 4], parts, parts)
    assert len(figure.axes) == panels
    assert sum(axis.axison for axis in figure.axes) == min(channels, 20)
    assert ("all" if channels <= 20 else "the 20 largest of 64") in figure.get_suptitle()


def test_a_run_of_one_entry_still_draws(tmp_path):
    figure = pictures.capacity([64], np.ones((1, 2)), np.ones((1, 2)))
    figure.savefig(tmp_path / "capacity.png")
    assert (tmp_path / "capacity.png").stat().st_size > 1000
