"""Every line of the README works when it is pasted, and a newcomer reads it in minutes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.main import get_command

import betavae_fast
from betavae_fast import cli
from tests.backends import ROOT
from tests.commands import run

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"\| `(betavae-fast [^`]+)` \|", README)
_SMALL = ["--steps=2", "--batch-size=4", "--latent-dim=3", "--precision=fp32"]
_ADDED = {
    "train": _SMALL,
    "evaluate": ["--data=photos"],
    "info": [],
    "traverse": [],
    "encode": [],
    "sample": [],
    "export": [],
}


@pytest.fixture(scope="module")
def in_a_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples and some photos."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "photos").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (300, 32, 32), np.uint8)):
        Image.fromarray(pixels).save(folder / "photos" / f"{number:03}.png")
    return folder


def test_it_is_short() -> None:
    assert README.count("\n") <= 110 and len(README.split()) < 1000


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_its_make_targets_are_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) > 15 and [link for link in links if not (ROOT / link).exists()] == []


def test_before_and_after_compute_the_same() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    torch.manual_seed(0)
    x = torch.rand(64, 1, 16, 16) < 0.3
    linear = torch.nn.Linear(256, 20)
    model = SimpleNamespace(encoder=lambda x: linear(x.flatten(1).float()), decoder=lambda z: z)
    forwards: list[FunctionType] = []
    for block in blocks[:2]:
        names: dict[str, FunctionType] = {"torch": torch}  # type: ignore[dict-item]
        exec(block, names)
        forwards.append(names["forward"])
    (z, kl), (ours, our_kl) = (forward(model, x) for forward in forwards)
    torch.testing.assert_close(our_kl, kl, rtol=1e-4, atol=1e-5)
    assert ours.shape == z.shape

    logits = torch.randn(64, 1, 16, 16)
    names = {"logits": logits, "x": x, "kl": kl}
    exec(blocks[2], names)
    (formula,) = re.findall(r"^The loss `(.+)` becomes:$", README, re.MULTILINE)
    wanted = eval(formula, {**names, "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits})
    torch.testing.assert_close(names["loss"], wanted)


def test_its_commands_run(in_a_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run in the order of the table, on fewer images. Those whose own tests take long are only parsed."""
    monkeypatch.chdir(in_a_checkout)
    for line in COMMANDS:
        name, *arguments = shlex.split(line)[1:]
        if name in _ADDED:
            assert run(name, *arguments, *_ADDED[name]) == 0, line
        else:
            command = get_command(cli.app).commands[name]  # type: ignore[attr-defined]
            assert command.make_context(name, list(arguments)).params, line


def test_it_shows_every_command_but_none_that_is_gone() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} == set(get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_the_citation_and_the_changelog_name_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {betavae_fast.__version__}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.startswith(f"# Changelog\n\n## {betavae_fast.__version__} ")
