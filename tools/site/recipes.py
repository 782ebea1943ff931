"""Writes the tables of docs/guides/recipes.md from the recipes: ``python -m tools.site.recipes``."""

from __future__ import annotations

from pathlib import Path

from betavae_fast.settings import flag
from betavae_fast.training.recipes import RECIPES, Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "recipes.md"
BEGIN = "<!-- recipes: written by python -m tools.site.recipes -->\n"
END = "<!-- end of recipes -->\n"


def page(text: str) -> str:
    """``text``, the page, with the recipes between its two marks written anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + _recipes() + END + after


def _recipes() -> str:
    names = list(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe.settings))
    lines = [f"| | {' | '.join(RECIPES)} |", "|---" * (len(RECIPES) + 1) + "|"]
    for name in names:
        cells = (_cell(recipe, name) for recipe in RECIPES.values())
        lines.append(f"| `{flag(name)}` | {' | '.join(cells)} |")
    for recipe in RECIPES.values():
        lines += ["", f"### {recipe.name}", "", f"From {recipe.source}.", ""]
        lines += [
            f"**What it reaches.** {recipe.reaches}",
            "",
            f"**What differs here.** {recipe.differs}",
            "",
        ]
        lines += ["| setting | value | source |", "|---|---|---|"]
        lines += [
            f"| `{flag(name)}` | {found.value} | {found.source} |" for name, found in recipe.settings.items()
        ]
    return "\n".join(lines) + "\n"


def _cell(recipe: Recipe, name: str) -> str:
    return str(recipe.settings[name].value) if name in recipe.settings else ""


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
