"""The ``python`` and ``console`` blocks of every page, run from top to bottom. The asserts in them are the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.backends import ROOT
from tools.site import pictures
from tools.site.run_page import MissingLibraryError, blocks, commands, run_page

DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in (DOCS / "index.md", pictures.PAGE, *DOCS.glob("guides/*.md"))
)
LIBRARIES = {"diffusers", "pythae", "lightning", "onnxruntime"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing but the examples, as the current one."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, folder: Path) -> None:
    try:
        run_page(DOCS / page)
    except MissingLibraryError as error:
        if error.library not in LIBRARIES:
            raise
        pytest.skip(str(error))
    if DOCS / page == pictures.PAGE:
        for name in pictures.drawn_by_the_page():
            with (
                Image.open(folder / pictures.LOOK / name) as drawn,
                Image.open(pictures.FOLDER / name) as shown,
            ):
                assert drawn.size == shown.size, f"{name}: run `python -m tools.site.pictures`"


def test_blocks_are_found_with_their_lines() -> None:
    text = "a\n```python\nx = 1\n```\n```sh\nmake\n```\n```console\n$ betavae-fast info\n```\n"
    assert list(blocks(text)) == [("python", "x = 1\n", 2), ("console", "$ betavae-fast info\n", 8)]
    assert list(commands("$ betavae-fast train \\\n    --steps 3  # few\n")) == [["train", "--steps", "3"]]


def test_every_picture_of_the_first_pages_is_there_and_small() -> None:
    """A newcomer waits for no picture, and none is left that no page shows."""
    shown: set[Path] = set()
    for page in (ROOT / "README.md", DOCS / "index.md", pictures.PAGE):
        found = re.findall(
            r"(?:!\[[^\]]*\]\(|src=\")((?:docs/)?pictures/[^)\"]+)", page.read_text(encoding="utf-8")
        )
        shown |= {(page.parent / name).resolve() for name in found}
    there = {path.resolve() for path in pictures.FOLDER.iterdir()}
    assert shown == there
    assert sum(path.stat().st_size for path in there) < 1_500_000
    with Image.open(pictures.MOVING) as moving:
        assert moving.n_frames > 20 and pictures.MOVING.stat().st_size < 1_000_000
