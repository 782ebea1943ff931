"""griffe extension: this project's docstrings as Markdown.

Sections (Args, Returns, Raises, Logs, Attributes) become lists, doctests code blocks, Sphinx' roles code. The comment
behind a field of a class is its docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_SECTION = re.compile(r"(Args|Returns|Raises|Logs|Attributes|Called with)(, raises)?( \([^)]*\))?:(.*)")
_NAME = re.compile(r"([\w*][\w*, ]*):(?= |$)")
_DIRECTIVE = re.compile(r" +# doctest: .*")
_COMMENT = re.compile(r"  # (.+)")
_INDENT = 4


def to_markdown(text: str) -> str:
    """
    >>> print(to_markdown("Doubles.\\n\\nArgs:\\n    x: a number,\\n        any.\\n>>> double(2)\\n4"))
    Doubles.
    <BLANKLINE>
    **Args**
    <BLANKLINE>
    - `x`: a number,
      any.
    <BLANKLINE>
    ```pycon
    >>> double(2)
    4
    ```
    """
    lines: list[str] = []
    in_section = in_doctest = False
    for line in [*_DIRECTIVE.sub("", _ROLE.sub(r"`\1`", text)).splitlines(), ""]:
        indent = len(line) - len(line.lstrip())
        if in_doctest:
            if line.strip():
                lines.append(line)
                continue
            lines.append("```")
            in_doctest = False
        if line.startswith(">>> "):
            lines += ["", "```pycon", line]
            in_doctest, in_section = True, False
        elif section := _SECTION.fullmatch(line):
            lines += [
                "",
                f"**{section[1]}**{section[2] or ''}{section[3] or ''}{':' * bool(section[4])}{section[4]}",
                "",
            ]
            in_section = not section[4]
        elif in_section and indent == _INDENT:
            lines.append("- " + _NAME.sub(_as_code, line.strip(), count=1))
        elif in_section and indent > _INDENT:
            lines.append("  " + line.strip())
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines).strip()


def _as_code(names: re.Match[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[1].split(", ")) + ":"


class MarkdownDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        is_field = attr.parent is not None and attr.parent.is_class and attr.annotation is not None
        if is_field and not attr.docstring and attr.lineno and (comment := _COMMENT.search(attr.source)):
            attr.docstring = griffe.Docstring(comment[1], parent=attr)
