"""Writes docs/api/cli.md from the commands' signatures: ``python -m tools.site.cli``."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from betavae_fast.cli import app
from betavae_fast.objectives.options import OBJECTIVES
from betavae_fast.settings import choices, flag

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api" / "cli.md"


def page() -> str:
    lines = [
        "# Command line",
        "",
        "`betavae-fast COMMAND`, or `python -m betavae_fast COMMAND`. Wrong arguments end with exit code 2 and one line, "
        "Ctrl-C with 130. This page is written by `python -m tools.site.cli`.",
    ]
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        lines += ["", f"## {name}", "", " ".join((command.callback.__doc__ or "").split())]
        panels = defaultdict(list)
        for panel, row in rows(command.callback):
            panels[panel].append(row)
        for panel, found in panels.items():
            lines += ["", f"### {name}: {panel}"] if panel else []
            if panel and (kind := OBJECTIVES.get(panel.removeprefix("Objective "))):
                lines += ["", f"{kind.paper}."]
            lines += ["", "| | | default |", "|---|---|---|", *found]
    return "\n".join(lines) + "\n"


def rows(command: Callable[..., Any]) -> Iterator[tuple[str | None, str]]:
    """The panel and the table row of each parameter."""
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        if get_origin(hints[parameter.name]) is not Annotated:
            continue  # typer's context is no option
        kind, info, *_ = get_args(hints[parameter.name])
        assert isinstance(info, (OptionInfo, ArgumentInfo))
        name = _name(parameter.name, info)
        words = " ".join((info.help or "").split()).replace("|", "\\|")
        if words_allowed := ", ".join(choices(kind)):
            words += f" One of {words_allowed}."
        if isinstance(info.show_default, str):
            default = info.show_default
        else:
            default = "" if parameter.default in (inspect.Parameter.empty, None) else str(parameter.default)
        yield info.rich_help_panel, f"| `{name}` | {words} | {default} |"


def _name(parameter: str, info: OptionInfo | ArgumentInfo) -> str:
    """The name of a parameter as one types it, or as it stands for what one types."""
    if isinstance(info, ArgumentInfo):
        return parameter.upper()
    # typer.Option takes a default value first. Within Annotated it is the first name of the option instead.
    named = (info.default, *(info.param_decls or ()))
    return next((name for name in named if isinstance(name, str)), flag(parameter))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
