"""JSON files that carry the SHA-256 of their own content, so that no byte changes unnoticed.

The checksum of the text is appended as its last entry and verified before parsing.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from betavae_fast.files import atomic_writer

_CHECKSUM = b',\n  "sha256": "'


class RunFileError(ValueError):
    """A file of a run that is missing, damaged, or of a format this version does not know."""


def write_checked(path: Path, content: dict[str, Any]) -> None:
    """Write ``content``, which must not be empty, as JSON with a last entry "sha256", atomically."""
    with atomic_writer(path) as file:
        file.write(with_checksum(json.dumps(content, indent=2).encode()))


def read_checked(path: Path) -> dict[str, Any]:
    """The content that ``write_checked`` wrote, without the checksum.

    Raises: RunFileError, naming the file, if it is missing or any byte has changed.
    """
    found = read_file(path)
    text, _, recorded = found.rpartition(_CHECKSUM)
    text += b"\n}"
    if found != with_checksum(text):
        raise RunFileError(
            f"{path}: damaged, the SHA-256 of its content is {hashlib.sha256(text).hexdigest()}, "
            f"expected {recorded[:64].decode('ascii', 'replace')!r}"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise RunFileError(f"{path}: not a JSON object")
    return content


def read_file(path: Path) -> bytes:
    """The bytes of a regular file, following links.

    Raises: RunFileError, naming the file, if it is missing or cannot be read.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):  # a device or a pipe may never end
            return path.read_bytes()
    except FileNotFoundError as error:
        raise RunFileError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        raise RunFileError(f"{path}: cannot be read ({error})") from error
    raise RunFileError(f"{path}: not a regular file")


def with_checksum(text: bytes) -> bytes:
    """Append to ``text``, a JSON object indented by two, its checksum as the last entry."""
    return text.removesuffix(b"\n}") + _CHECKSUM + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'
