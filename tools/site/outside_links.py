"""A MkDocs hook that copies into the site the files outside docs/ to which pages link.

Such a link therefore works in the repository and in the site. A link to a folder leads to its README, or to that of the
nearest folder above.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)")
_TEXT = {".md", ".py", ".cpp", ".cu", ".h", ".toml"}  # types that a browser should show instead of download


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    root = Path(config.docs_dir).parent
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def inside(link: re.Match[str]) -> str:
        target = root / posixpath.normpath(posixpath.join(folder, link[1]))
        while target.is_dir():
            target = target / "README.md" if (target / "README.md").is_file() else target.parent
        uri = target.relative_to(root).as_posix()
        if uri.startswith("docs/") or not target.is_file():
            return link[1]  # MkDocs checks this link itself
        uri += ".txt" if target.suffix in _TEXT else ""
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=target.read_bytes()))
        return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(inside, markdown)
