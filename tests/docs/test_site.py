"""The site: it is built strictly, its pages agree with the code, and nothing is loaded from the network."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

import pytest
from typer.main import get_command

from betavae_fast.cli import app
from tests import PATIENCE
from tests.backends import ROOT
from tools.site import cli, recipes

MISSING = [
    name for name in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers") if not find_spec(name)
]
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}; `make docs` installs them")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert _LOADED.findall(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_docstrings_are_rendered(site: Path) -> None:
    """No Sphinx role, no section and no doctest is left as plain text."""
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r":(func|class|meth|mod):|<p>(Args|Returns|Raises)\b|<blockquote>", text), page


def test_the_page_of_the_command_line_is_what_it_writes() -> None:
    assert cli.PAGE.read_text(encoding="utf-8") == cli.page(), "run `python -m tools.site.cli`"


def test_every_option_in_the_page_is_one_of_its_command() -> None:
    """And each option of a command is there, by the name that one types first."""
    commands = get_command(app).commands
    sections = re.split(r"^## (.+)$", cli.PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert sections[::2] == list(commands)
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        written = re.findall(r"^\| `(-.+?)` \|", text, re.MULTILINE)
        accepted = [found.opts[0] for found in commands[name].params if found.param_type_name == "option"]
        assert sorted(written) == sorted(accepted), name


def test_the_tables_of_the_recipes_are_what_is_written() -> None:
    text = recipes.PAGE.read_text(encoding="utf-8")
    assert text == recipes.page(text), "run `python -m tools.site.recipes`"


def test_a_docstring_becomes_markdown() -> None:
    pytest.importorskip("griffe", reason="griffe is not installed; `make docs` installs it")
    from tools.site.docstrings import to_markdown

    docstring = """As :func:`twice` does::

        code

    Args (two of them):
        x, y: numbers,
            any.
    Raises: TypeError for what is
        no number.

    >>> double(2)  # doctest: +ELLIPSIS
    4
    """
    expected = """As `twice` does:

        code


    **Args** (two of them)

    - `x`, `y`: numbers,
      any.

    **Raises**: TypeError for what is
    no number.


    ```pycon
    >>> double(2)
    4
    ```"""
    assert to_markdown(cleandoc(docstring)) == cleandoc(expected)
