"""Downloads a file whose size and checksum are known beforehand."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

from betavae_fast.files import atomic_writer

from .errors import DatasetError
from .progress import progress_bar

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30.0


def download(url: str, path: Path, *, size: int, sha256: str, progress: bool) -> None:
    """Download `url` to `path`, atomically: the file appears only if it has this size and this SHA-256.

    Raises: OSError if the server or the disk cannot be reached; DatasetError if the content differs.
    """
    digest, received = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
        progress_bar(f"Downloading {path.name}", size, enabled=progress) as advance,
        atomic_writer(path) as file,
    ):
        # Stop one chunk past the expected size, so that a wrong server cannot fill the disk.
        while received <= size and (chunk := response.read(_CHUNK)):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            advance(len(chunk))
        if received != size or digest.hexdigest() != sha256:
            raise DatasetError(
                f"{url}: not the expected file: {received} bytes with SHA-256 {digest.hexdigest()}, "
                f"expected {size} bytes with {sha256}"
            )
