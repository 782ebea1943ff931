"""Draws the pictures in docs/pictures/ from the trained model in examples/dsprites: ``python -m tools.site.pictures``.

The blocks of docs/what-is-a-beta-vae.md draw the pictures that this page shows; the moving traversal is drawn here.
``--report FILE`` also photographs the first screen of a report, by Chromium. training-step.svg is written by hand.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from betavae_fast.evaluation.glance import glance
from betavae_fast.evaluation.learned import LearnedChannel
from betavae_fast.evaluation.summary import choose_images, summarise
from betavae_fast.evaluation.traversal import traverse
from betavae_fast.training.trained_run import open_run
from tools.site.run_page import run_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "what-is-a-beta-vae.md"
FOLDER = ROOT / "docs" / "pictures"
MODEL = ROOT / "examples" / "dsprites"
MOVING, SCREEN = FOLDER / "traversal.gif", FOLDER / "report.png"
LOOK = "look"  # the folder that the page draws into

_FRAMES, _FRAME_MS = 48, 70
_EXTENT = 1.8  # standard deviations of the prior; most codes of the data lie within
_SIDE, _MARGIN, _GAP, _ABOVE, _BELOW = 208, 16, 20, 56, 44  # pixels
_INK, _FAINT, _LINE, _ACCENT = "#1c2330", "#5d6675", "#c9d0da", "#1f6fb4"
_SCREEN_SIZE = (1120, 615)  # the page is 1088 pixels wide


def drawn_by_the_page() -> list[str]:
    """The file names of the pictures that the page draws and shows."""
    return re.findall(r"!\[[^\]]*\]\(pictures/([^)]+\.png)\)", PAGE.read_text(encoding="utf-8"))


def draw_page() -> None:
    """Run the page beside the examples, and keep the pictures that it draws and shows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")
        before = Path.cwd()
        os.chdir(folder)
        try:
            run_page(PAGE)
        finally:
            os.chdir(before)
        for picture in drawn_by_the_page():
            _save_small(Image.open(folder / LOOK / picture), FOLDER / picture)


def draw_moving_traversal() -> None:
    """Draw the channels in use side by side, each named by what it follows, all moving back and forth."""
    run = open_run(MODEL, "cpu")
    dataset = run.images()
    learned = glance(run, summarise(run.model, dataset))
    assert learned is not None
    start = dataset.gather(choose_images(len(dataset), 1))[0]
    values = [-_EXTENT * math.cos(2 * math.pi * frame / _FRAMES) for frame in range(_FRAMES)]
    images = traverse(run.model, start, [row.channel.index for row in learned.channels], values)
    pixels = (255 * images[:, :, 0]).round().byte().numpy()
    frames = [
        _frame(learned.channels, [Image.fromarray(row[frame]) for row in pixels], value)
        for frame, value in enumerate(values)
    ]
    # One palette for all frames: colours do not flicker, and what stands still costs nothing.
    palette = frames[_FRAMES // 3].quantize(64)
    # Quantizing averages similar colours; what is nearly white becomes white, like the page around it.
    colours = palette.getpalette() or []
    palette.putpalette([255 if colour > 248 else colour for colour in colours])
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(MOVING, save_all=True, append_images=others, duration=_FRAME_MS, loop=0, optimize=True)


def _frame(rows: Sequence[LearnedChannel], images: Sequence[Image.Image], value: float) -> Image.Image:
    """A panel for each channel: its name, its image, and its value on a scale."""
    width = 2 * _MARGIN + len(rows) * _SIDE + (len(rows) - 1) * _GAP
    frame = Image.new("RGB", (width, _ABOVE + _SIDE + _BELOW), "white")
    draw = ImageDraw.Draw(frame)
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        left = _MARGIN + number * (_SIDE + _GAP)
        middle = left + _SIDE // 2
        draw.text((middle, 18), f"channel {row.channel.index}", _FAINT, _font("", 14), anchor="mm")
        draw.text((middle, 39), f"follows {row.name}", _INK, _font("-Bold", 16), anchor="mm")
        frame.paste(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, _ABOVE))
        y, half = _ABOVE + _SIDE + 22, _SIDE // 2 - 8
        draw.line((middle - half, y, middle + half, y), _LINE, 3)
        x = middle + half * value / _EXTENT
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), _ACCENT)
    return frame


def _font(style: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, the same on every machine."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{style}.ttf", size)


def photograph(report: Path) -> None:
    """Save the first screen of a report as a picture.

    Raises: FileNotFoundError without Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise FileNotFoundError("Chromium is not installed, and no other program photographs the report")
    with tempfile.TemporaryDirectory() as folder:
        screen = Path(folder) / SCREEN.name
        options = [
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--window-size={_SCREEN_SIZE[0]},{_SCREEN_SIZE[1]}",
        ]
        command = [browser, *options, f"--screenshot={screen}", report.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        _save_small(Image.open(screen), SCREEN)


def _save_small(picture: Image.Image, path: Path) -> None:
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.site.pictures", description=__doc__)
    parser.add_argument("--report", type=Path, help="a report.html, to photograph its first screen")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    draw_page()
    draw_moving_traversal()
    if args.report is not None:
        photograph(args.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
