"""A griffe extension that converts this project's docstrings to Markdown.

Sections (Args, Returns, Raises, Logs, Attributes) become lists, doctests become code blocks, and Sphinx roles become
code. The fields of tuples and dataclasses become a list, too, each with the comment after it.
"""

from __future__ import annotations

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


class MarkdownDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
        told = obj.docstring and "**Attributes**" in obj.docstring.value
        if isinstance(obj, griffe.Class) and obj.docstring and not told and (fields := list(_fields(obj))):
            obj.docstring.value += "\n\n**Fields**\n\n" + "\n".join(fields)
