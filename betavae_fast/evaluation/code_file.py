"""Writes the codes of a data set to a file, block by block, so that no set is too large."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from betavae_fast.data import FolderImages, ImageDataset, KnownFactors
from betavae_fast.data.labelled import unlabelled
from betavae_fast.data.named_rows import file_name
from betavae_fast.evaluation.encoding import encode
from betavae_fast.files import atomic_writer
from betavae_fast.nn import BetaVAE

Block = dict[str, NDArray[Any]]
"""Arrays of some rows by name: (n,) or (n, D)."""

_ROWS = 16_384  # images encoded between two writes; packing the weights again for each costs less than a hundredth


def write_codes(
    path: str | os.PathLike[str],
    model: BetaVAE,
    dataset: ImageDataset,
    *,
    seed: int | None = None,
    kl: bool = False,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
    on_images: Callable[[int], object] = lambda count: None,
) -> None:
    """Write the posterior of every image of ``dataset``, as ``betavae-fast encode`` does.

    The arrays are ``mu`` and ``logvar`` (log σ²), float32 (N, D), then ``z`` and ``kl`` where asked for, and what tells
    the images apart: ``file``, the path below the folder, and for known factors ``factor_NAME``, int64 (N,), the class of
    each; without either, ``index``. An .npz has them as they are, a .parquet file has a column for each channel:
    ``mu_0``, ....

    Args:
        path: a file whose name ends in .npz or .parquet. It is complete or not there, however the writing ends.
        seed: seed of ``z``, one draw of each posterior; it does not depend on the batches. None: no ``z``.
        kl: True adds the KL of each posterior to N(0, I) in each channel, in nats.
        batch_size, precision, on_images: as in ``encode``.
    Raises: ValueError for another suffix, a folder of this name, no images, or a code that is not finite; RuntimeError
        for .parquet without pyarrow; the errors of ``encode``; OSError.
    """
    check_format(path)
    if len(dataset) == 0:
        raise ValueError(f"{dataset.name}: no images to encode")
    told = described(dataset)
    with _WRITERS[Path(path).suffix](Path(path), len(dataset)) as append:
        for start in range(0, len(dataset), _ROWS):
            rows = torch.arange(start, min(start + _ROWS, len(dataset)))
            found = encode(
                model, dataset, rows, batch_size=batch_size, precision=precision, on_images=on_images
            )
            block: Block = {"mu": found.mu.numpy(), "logvar": found.logvar.numpy()}
            if seed is not None:
                block["z"] = found.sampled_codes(seed, first_row=start)
            if kl:
                block["kl"] = found.kl().numpy()
            _check_finite(block, start)
            append(block | told(rows))


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuse the name of a file that `write_codes` cannot write.

    Raises: ValueError for another suffix than .npz or .parquet, or a folder of this name; RuntimeError if pyarrow is
        needed and not installed.
    """
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise ValueError(
            f"{os.fspath(path)}: codes are written as .npz or .parquet, got {repr(suffix) if suffix else 'no suffix'}"
        )
    if os.path.isdir(path):
        raise ValueError(f"{os.fspath(path)}: codes are written to a file, and this is a folder")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise RuntimeError(
            f"{os.fspath(path)}: .parquet needs pyarrow, which is not installed: pip install pyarrow, or write an .npz"
        )


def described(dataset: ImageDataset) -> Callable[[torch.Tensor], Block]:
    """A function from the indices of images to the arrays that tell them apart, as `write_codes` names them."""
    told: list[Callable[[torch.Tensor], Block]] = []
    images = unlabelled(dataset)
    if isinstance(images, FolderImages):
        files = images.files
        # All blocks have the width of the longest name; an array of all names would be as wide for each.
        width = max((len(file_name(name)) for name in files), default=1)
        told.append(
            lambda rows: {"file": np.array([file_name(files[row]) for row in rows.tolist()], f"U{width}")}
        )
    if isinstance(dataset, KnownFactors):
        names_of_factors = [f"factor_{name}" for name in dataset.factor_names]
        told.append(lambda rows: dict(zip(names_of_factors, dataset.factors(rows).numpy().T, strict=True)))
    if not told:
        told.append(lambda rows: {"index": rows.numpy()})
    return lambda rows: {name: array for tell in told for name, array in tell(rows).items()}


def write_npz(path: Path, arrays: Block) -> None:
    """Write ``arrays``, whose rows are as many, as an uncompressed .npz. Their names may be any."""
    rows = len(next(iter(arrays.values())))
    with _npz_writer(path, rows) as append:
        append(arrays)


def _check_finite(block: Block, start: int) -> None:
    for name, values in block.items():
        if not (finite := np.isfinite(values)).all():
            row, channel = np.argwhere(~finite)[0]
            raise ValueError(
                f"{name} must be finite, got {values[row, channel]} for image {start + row} in channel {channel}"
            )


@contextmanager
def _npz_writer(path: Path, rows: int) -> Iterator[Callable[[Block], None]]:
    """Write an uncompressed .npz of ``rows`` rows.

    A zip archive takes its members one after the other, so each array grows in a nameless file beside it until the end.
    """
    with atomic_writer(path) as file, ExitStack() as held:
        members: dict[str, IO[bytes]] = {}

        def append(block: Block) -> None:
            for name, values in block.items():
                if name not in members:
                    members[name] = held.enter_context(TemporaryFile(dir=path.parent))
                    header = {
                        "descr": np.lib.format.dtype_to_descr(values.dtype),
                        "fortran_order": False,
                        "shape": (rows, *values.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(members[name], header)
                members[name].write(np.ascontiguousarray(values).data)

        yield append
        with zipfile.ZipFile(file, "w") as archive:
            for name, member in members.items():
                member.seek(0)
                # A ZipInfo has no time, so that the same codes make the same file.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target:
                    shutil.copyfileobj(member, target, 1 << 20)


@contextmanager
def _parquet_writer(path: Path, rows: int) -> Iterator[Callable[[Block], None]]:
    """Write a Parquet file, a row group for each block."""
    import pyarrow
    from pyarrow import parquet

    with atomic_writer(path) as file, ExitStack() as held:
        writers: list[Any] = []

        def append(block: Block) -> None:
            table = pyarrow.table(dict(_columns(block)))
            if not writers:
                writers.append(held.enter_context(parquet.ParquetWriter(file, table.schema)))
            writers[0].write_table(table)

        yield append


def _columns(block: Block) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, values in block.items():
        if values.ndim == 1:
            yield name, np.ascontiguousarray(values)
        else:
            for channel, column in enumerate(np.ascontiguousarray(values.T)):
                yield f"{name}_{channel}", column


_WRITERS = {".npz": _npz_writer, ".parquet": _parquet_writer}
