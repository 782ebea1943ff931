"""A griffe extension that converts this project's docstrings to Markdown.

Sections (Args, Returns, Raises, Logs, Attributes) become lists, doctests become code blocks, and Sphinx roles become
code. The fields of tuples and dataclasses become a list, too, each with the comment after it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_DIRECTIVE = re.compile(r" +# doctest: .*")
_LITERAL = re.compile(r"::$", re.MULTILINE)
_SECTION = re.compile(r"(Args|Returns|Raises|Logs|Attributes|Called with)(, raises)?( \([^)]*\))?:(.*)")
_NAME = re.compile(r"([\w*][\w*, ]*):(?= |$)")
_COMMENT = re.compile(r"  # (.+)")
_INDENT = 4


def to_markdown(text: str) -> str:
    for pattern, replacement in ((_ROLE, r"`\1`"), (_DIRECTIVE, ""), (_LITERAL, ":")):
        text = pattern.sub(replacement, text)
    lines: list[str] = []
    where = "text"  # or "section", "sentence" (a section of one), "doctest"
    for line in [*text.splitlines(), ""]:
        indent = len(line) - len(line.lstrip())
        if where == "doctest" and line.strip():
            lines.append(line)
            continue
        if where == "doctest":
            lines.append("```")
            where = "text"
        if line.startswith(">>> "):
            lines += ["", "```pycon", line]
            where = "doctest"
        elif section := _SECTION.fullmatch(line):
            name, more, note, sentence = (part or "" for part in section.groups())
            lines += ["", f"**{name}**{more}{note}" + (f":{sentence}" if sentence else "\n")]
            where = "sentence" if sentence else "section"
        elif where == "section" and indent == _INDENT:
            lines.append("- " + _NAME.sub(_as_code, line.strip(), count=1))
        elif where == "section" and indent > _INDENT:
            lines.append("  " + line.strip())
        elif where == "sentence" and indent:
            lines.append(line.strip())
        else:
            where = "text" if line else where
            lines.append(line)
    return "\n".join(lines).strip()


def _as_code(names: re.Match[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[1].split(", ")) + ":"


def _fields(kind: griffe.Class) -> Iterator[str]:
    for name, member in kind.members.items():
        is_field = member.is_attribute and member.annotation and "property" not in member.labels
        if is_field and not member.docstring and not name.startswith("_"):
            comment = _COMMENT.search(member.source)
            yield f"- `{name}`: `{member.annotation}`" + (f", {comment[1]}" if comment else "")


def _setting(attribute: griffe.Attribute) -> griffe.ExprCall | None:
    """The ``Setting(...)`` in the annotation of an attribute, or of the constant that stands there."""
    annotation = attribute.annotation
    if not (isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "Annotated"):
        return None
    found: Any = list(annotation.slice.elements)[1]  # type: ignore[union-attr]
    if isinstance(found, griffe.ExprName):
        found = attribute.module.members[found.name].value
    return found


def _classes(scope: griffe.Object) -> Iterator[griffe.Class]:
    for member in scope.members.values():
        if not member.is_alias and isinstance(member, griffe.Class):
            yield member
        if not member.is_alias and isinstance(member, (griffe.Class, griffe.Module)):
            yield from _classes(member)


class MarkdownDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for kind in _classes(pkg):
            for name, attribute in kind.members.items():
                if isinstance(attribute, griffe.Attribute) and (setting := _setting(attribute)):
                    help_ = ast.literal_eval(str(setting.arguments[0]))
                    attribute.annotation = attribute.annotation.slice.elements[0]  # type: ignore[union-attr]
                    attribute.extra["settings"]["line"] = f"- `{name}`: {help_}"
        for kind in _classes(pkg):
            if kind.docstring is None or "**Attributes**" in kind.docstring.value:
                continue
            inherited = [member for parent in (kind, *kind.mro()) for member in parent.members.values()]
            if settings := [
                member.extra["settings"]["line"] for member in inherited if member.extra["settings"]
            ]:
                kind.docstring.value += "\n\n**Settings**\n\n" + "\n".join(settings)
            elif fields := list(_fields(kind)):
                kind.docstring.value += "\n\n**Fields**\n\n" + "\n".join(fields)
