"""Pictures show the given numbers at the places where a reader looks for them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from betavae_fast.evaluation import pictures
from betavae_fast.evaluation.summary import Channel

RNG = np.random.default_rng(0)


GAP = 4


def tile(axis: Axes, row: int, column: int, height: int = 4, width: int = 4) -> np.ndarray:
    """The image shown in a row and column of ``axis``, whose images have gaps of GAP pixels between them."""
    top, left = row * (height + GAP), column * (width + GAP)
    return np.asarray(axis.images[0].get_array())[top : top + height, left : left + width]


def as_bytes(image: np.ndarray) -> np.ndarray:
    """One image (C, H, W) as (H, W, 3), of which all channels but three show the first."""
    shown = image if len(image) == 3 else image[:1].repeat(3, axis=0)
    return np.moveaxis((255 * shown.clip(0, 1)).round(), 0, -1)


def labels(axis: Axes) -> list[tuple[str, float]]:
    """The names of the rows of ``axis``, and where each stands."""
    return [
        (text.get_text(), place)
        for text, place in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)
    ]


def test_reconstructions_stand_below_their_originals():
    originals, reconstructed = RNG.random((2, 7, 1, 4, 4))
    (axis,) = pictures.reconstructions(originals, reconstructed, columns=5).axes
    for position in range(7):
        band, column = divmod(position, 5)
        np.testing.assert_array_equal(tile(axis, 2 * band, column), as_bytes(originals[position]))
        np.testing.assert_array_equal(tile(axis, 2 * band + 1, column), as_bytes(reconstructed[position]))
    assert all((tile(axis, row, column) == 255).all() for row in (2, 3) for column in (2, 3, 4))
    assert labels(axis) == [("data", 1.5), ("model", 9.5), ("data", 17.5), ("model", 25.5)]


def test_colour_images_keep_their_colours_and_stay_in_range():
    images = RNG.normal(size=(2, 3, 4, 4))
    (axis,) = pictures.reconstructions(images, images).axes
    np.testing.assert_array_equal(tile(axis, 0, 0), as_bytes(images[0]))


def test_traversal_labels_each_row_with_its_channel_and_nats():
    channels = [Channel(3, 1.92, 1.0, 0.92, active=True), Channel(0, 0.001, 0.0, 0.001, active=False)]
    images = RNG.random((2, 3, 1, 4, 6))
    (axis,) = pictures.traversal(images, channels, [-3.0, 0.0, 3.0]).axes
    assert labels(axis) == [("channel 3\n1.920 nats", 1.5), ("channel 0\n0.001 nats", 9.5)]
    assert [text.get_color() for text in axis.get_yticklabels()] == ["black", pictures.FADED]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["-3", "0", "+3"]
    assert list(axis.get_xticks()) == [2.5, 12.5, 22.5] and axis.xaxis.get_ticks_position() == "top"
    for row, column in np.ndindex(2, 3):
        np.testing.assert_array_equal(tile(axis, row, column, 4, 6), as_bytes(images[row, column]))


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_a_moving_traversal_names_its_channels_and_shows_each_value(channels):
    which = [Channel(index, 1.0, 0.5, 0.5, active=True) for index in range(channels)]
    images = np.zeros((channels, 3, 1, 16, 16))
    images[:, 2] = 1
    dark, again, light = (
        np.asarray(frame) for frame in pictures.traversal_frames(images, which, [-1.0, 0.0, 1.0])
    )
    assert dark.shape == light.shape
    below = slice(25, None)  # below the value, which changes
    np.testing.assert_array_equal(dark[below], again[below])
    moved = (dark[below] != light[below]).any(-1)
    assert moved.mean() > 0.3 and (dark[below][moved] < light[below][moved]).all()
    names = (dark[below] < 128).all(-1) & ~moved  # ink that stays
    columns = min(channels, 5)
    across = np.array_split(names.any(0), columns)
    assert all(part.any() for part in across)
    rows = np.flatnonzero(names.any(1))
    assert (np.diff(rows) > 20).sum() == -(-channels // 5) - 1  # a line of names above each row of images


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_strip_has_its_images_from_left_to_right(channels):
    images = RNG.random((3, channels, 32, 16))
    drawn = np.asarray(pictures.strip(images))
    assert drawn.shape == (64, 2 * (3 * 16 + 2), 3)  # each pixel twice, and a white column between images
    shown = np.moveaxis(images if channels == 3 else images[:, :1].repeat(3, axis=1), 1, -1)
    for position in range(3):
        left = position * 2 * 17
        image = drawn[::2, left : left + 32 : 2]
        np.testing.assert_array_equal(image, (255 * shown[position]).round())
        np.testing.assert_array_equal(drawn[1::2, left + 1 : left + 32 : 2], image)
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
