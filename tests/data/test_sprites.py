"""The geometry of the sprites, compared with a slow and independent drawing and with known facts of the published set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from betavae_fast.data import DSprites
from betavae_fast.data.dsprites import PUBLISHED_MEAN_PIXEL
from betavae_fast.data.sprites import crossings, outline


def image(dsprites: DSprites, *classes: int) -> np.ndarray:
    """The image of (shape, scale, orientation, posX, posY), bool (64, 64)."""
    return dsprites.gather(dsprites.index(torch.tensor([[0, *classes]])))[0, 0].numpy()


def brute_force(shape: int, scale: float, theta: float, x: float, y: float) -> np.ndarray:
    """The pixels whose centres the outline winds around: seen from such a centre, the outline sweeps a full turn."""
    name = ("square", "ellipse", "heart")[shape]
    local = outline(name)
    vertices = np.empty_like(local)
    vertices[:, 0] = scale * (np.cos(-theta) * local[:, 0] - np.sin(-theta) * local[:, 1]) + 16 + 32 * x
    vertices[:, 1] = scale * (np.sin(-theta) * local[:, 0] + np.cos(-theta) * local[:, 1]) + 16 + 32 * y
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    seen = (vertices[:, 0] - columns[..., None]) + 1j * (vertices[:, 1] - rows[..., None])
    swept = np.angle(np.roll(seen, -1, axis=2) / seen).sum(axis=2)
    return np.abs(swept) > np.pi


@pytest.mark.parametrize("shape", [0, 1, 2], ids=["square", "ellipse", "heart"])
def test_images_are_what_winding_numbers_say(dsprites: DSprites, shape: int) -> None:
    generator = np.random.default_rng(shape)
    for classes in generator.integers((6, 40, 32, 32), size=(20, 4)):
        scale, theta, x, y = (
            float(table[c]) for table, c in zip(dsprites.factor_values[2:], classes, strict=True)
        )
        found, expected = image(dsprites, shape, *classes), brute_force(shape, scale, theta, x, y)
        assert np.array_equal(found, expected), classes


def test_mean_pixel_is_the_published_one(dsprites: DSprites) -> None:
    mean = dsprites.mean_image().double().mean().item()
    assert mean == pytest.approx(PUBLISHED_MEAN_PIXEL, rel=1e-5)


def test_every_image_shows_something_and_none_touches_the_border(dsprites: DSprites) -> None:
    rows = dsprites.store.view(-1, 64, 8)
    # A shape at scale 1 reaches 13.6 pixels from its centre, which stays 16 pixels from the border.
    assert not rows[:, [0, 63]].any()
    assert not (rows[:, :, 0] & 1).any()
    assert not (rows[:, :, 7] & 128).any()
    assert rows[:, 8:56].amax((1, 2)).min() > 0


def test_a_full_turn_is_no_turn(dsprites: DSprites) -> None:
    by_orientation = dsprites.store.view(18, 40, 1024 * 512)
    assert torch.equal(by_orientation[:, 0], by_orientation[:, 39])
    assert not torch.equal(by_orientation[:, 0], by_orientation[:, 38])


def test_heart_stands_upright_and_is_mirror_symmetric_at_orientation_0(dsprites: DSprites) -> None:
    for scale in range(6):
        for x in range(32):
            heart = image(dsprites, 2, scale, 0, x, 16)
            # Mirroring the image about its middle moves the centre 16 + 32 x/31 to the centre of 31 − x.
            assert np.array_equal(heart[:, ::-1], image(dsprites, 2, scale, 0, 31 - x, 16))
    heart = image(dsprites, 2, 5, 0, 0, 0)
    rows = np.flatnonzero(heart.any(axis=1))
    top, bottom = heart[rows[0]].astype(int), heart[rows[-1]].astype(int)
    assert (np.diff(top) == 1).sum() == 2, "two lobes at the top"
    assert (np.diff(bottom) == 1).sum() == 1, "one tip at the bottom"
    assert bottom.sum() < heart.sum(axis=1).max() / 4


def test_heart_turns_counterclockwise_on_the_screen(dsprites: DSprites) -> None:
    heart = image(dsprites, 2, 5, 10, 0, 0)  # turned by 92°, the tip that pointed down points right
    columns = np.flatnonzero(heart.any(axis=0))
    assert 2 * heart[:, columns[-4:]].sum() < heart[:, columns[:4]].sum()


@pytest.mark.parametrize("shape", [0, 1, 2])
@pytest.mark.parametrize("orientation", [0, 7, 23])
def test_position_31_is_32_pixels_from_position_0(dsprites: DSprites, shape: int, orientation: int) -> None:
    start = image(dsprites, shape, 4, orientation, 0, 0)
    assert np.array_equal(image(dsprites, shape, 4, orientation, 31, 0), np.roll(start, 32, axis=1))
    assert np.array_equal(image(dsprites, shape, 4, orientation, 0, 31), np.roll(start, 32, axis=0))


def test_the_square_has_the_side_it_should(dsprites: DSprites) -> None:
    for scale, side in enumerate((9.6, 11.52, 13.44, 15.36, 17.28, 19.2)):
        square = image(dsprites, 0, scale, 0, 0, 0)
        # With the centre on a pixel corner, the side is an even number of pixels, those with centres within half a side.
        expected = 2 * int(side / 2 + 0.5)
        assert square.any(axis=0).sum() == square.any(axis=1).sum() == expected
        assert square.sum() == expected**2


def test_a_line_through_a_vertex_is_crossed_an_even_number_of_times() -> None:
    diamond = np.array([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = np.isfinite(crossings(diamond, np.array([-1.0, 0.0, 1.0, 0.5, 5.0]))).sum(axis=0)
    assert set(found % 2) == {0}
    assert found.tolist()[1:4:2] == [2, 2]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="'star'"):
        outline("star")
