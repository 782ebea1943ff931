"""Writes a model as ONNX."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from betavae_fast.choices import PixelType
from betavae_fast.export.programs import Program, check, programs
from betavae_fast.files import atomic_writer
from betavae_fast.nn import BetaVAE

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(model: BetaVAE, folder: str | os.PathLike[str], *, pixels: PixelType = "float") -> list[Path]:
    """Write encoder.onnx and decoder.onnx. Needs onnx, onnxscript and onnxruntime, which the extra ``export`` has.

    Both compute in float32, for a batch of any size. onnxruntime runs both on random inputs, and the results are compared
    with the model's before anything is written.

    Args:
        folder: the folder, which is made if missing.
        pixels: the encoder's input: "float", float32 in [0, 1], or "uint8", from 0 to 255.
    Returns: the two paths. The encoder takes ``images`` (B, C, H, W) to ``mu`` and ``logvar``, (B, D) each, with the
        model's ``logvar_range`` applied. The decoder takes ``z`` (B, D) to ``images``, the expected images (B, C, H, W).
    Raises: RuntimeError if a package is not installed; ValueError if a result of onnxruntime differs from the model's by
        more than 1e-4 times max(1, abs(x)); OSError if nothing can be written there.

    >>> encoder, decoder = write_onnx(model, "exported", pixels="uint8")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession(encoder)  # doctest: +SKIP
    >>> mu, logvar = session.run(["mu", "logvar"], {"images": images})  # doctest: +SKIP
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise RuntimeError(
            f"ONNX needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install {' '.join(missing)}, or write another format"
        )
    contents = {}
    for program in programs(model, pixels):
        path = Path(folder) / f"{program.name}.onnx"
        contents[path] = _translate(program)
        check(path.name, program, _runner(program, contents[path]))
    for path, content in contents.items():
        with atomic_writer(path) as file:
            file.write(content)
    return list(contents)


def _translate(program: Program) -> bytes:
    with _quiet():
        translated = torch.onnx.export(
            program.exported,
            dynamo=True,
            verbose=False,
            input_names=[program.input],
            output_names=list(program.outputs),
        )
    assert translated is not None
    content: bytes = translated.model_proto.SerializeToString()
    return content


def _runner(program: Program, content: bytes) -> Callable[[Tensor], list[Tensor]]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(program.outputs, {program.input: x.numpy()})]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the translation says about torch's own code, and that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
