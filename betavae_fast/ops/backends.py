"""The backends: which are available, why one is missing, and which one computes a tensor.

A backend is loaded when it is first needed: importing betavae_fast imports neither Triton nor a compiled library.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from betavae_fast.ops.operators import BACKENDS, op_names

Backend = Literal["auto", "reference", "eager", "cpp", "triton", "cuda"]

# Backends with kernels for each kind of device, the fastest first.
_KERNELS = {"cpu": ("cpp",), "cuda": ("cuda", "triton")}
_warned_of: set[str] = set()

_PACKAGE = Path(__file__).resolve().parent.parent
CPP_LIBRARY, CUDA_LIBRARY = _PACKAGE / "_C.so", _PACKAGE / "_C_cuda.so"
_BUILD_LOG = _PACKAGE / "_build.txt"


class BackendStatus(NamedTuple):
    """A row of the table that ``betavae-fast info`` prints. Every backend has all ops."""

    backend: str
    available: bool
    reason: str  # cause and remedy if not available, else empty


def _build_note(library: str) -> str:
    """The reason that setup.py recorded when it left a library out."""
    if _BUILD_LOG.exists():
        for line in _BUILD_LOG.read_text(encoding="utf-8").splitlines():
            name, _, note = line.partition(": ")
            if name == library:
                return note
    return "it has not been built"


def _load_library(path: Path, what: str, needs: str, otherwise: str = "") -> str:
    """Load a library. Returns "", or the reason why it cannot be used and the remedy."""
    if not path.exists():
        note = _build_note(path.stem)
        if note.startswith("the compiler failed"):
            remedy = "Mend that error"
        elif note.endswith("=0 at install time"):
            remedy = "Unset that variable"
        elif ": use " in note:
            remedy = "Follow that advice"
        elif note.startswith("torch was installed without CUDA"):
            remedy = "Install a torch with CUDA"
        elif not _BUILD_LOG.exists():
            return (
                f"{what} was not built: {_PACKAGE.parent} is a checkout from which nothing was installed. Install it by "
                f"pip install -e, with {needs}, or start Python in another folder{otherwise}."
            )
        else:
            remedy = f"Install {needs}"
        return f"{what} was not built ({note}). {remedy} and reinstall{otherwise}."
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{what} does not load in torch {torch.__version__} ({error}). Reinstall betavae_fast for this torch."
    return ""


def _import(backend: str) -> None:
    for op in op_names():
        importlib.import_module(f"betavae_fast.ops.{backend}.{op}")


@cache
def triton_serves(device: torch.device) -> bool:
    """Let Triton run the operators that all backends share (``ops/bias_relu.py``, ``ops/kl_parts.py``) on a GPU.

    Returns: False if Triton is not installed, or cannot compile and launch a kernel for ``device``: it may find no C
        compiler, or not know the GPU. One warning then says why, and plain torch runs.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        bias_relu = importlib.import_module("betavae_fast.ops.triton.bias_relu")
        bias_relu.bias_relu_(torch.zeros(1, 1, device=device), torch.zeros(1, device=device))
        importlib.import_module("betavae_fast.ops.triton.kl_parts")
    except Exception as error:  # Triton calls several programs, and any of them may fail
        warnings.warn(
            f"hidden layers and the parts of the KL run in plain torch on {device}: Triton fails there ({error})",
            stacklevel=2,
        )
        return False
    return True


@cache
def missing(backend: str) -> str:
    """Load ``backend``. Returns "" if it can be used here, else the reason why not and the remedy."""
    if backend in ("reference", "eager"):
        _import(backend)
        return ""
    if backend == "cpp":
        return _load_library(CPP_LIBRARY, "the C++ extension", "a C++17 compiler")
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed. Install it with `pip install triton`."
        _import(backend)
        if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
            return ""
        return "Triton needs a GPU, and torch sees none. Set TRITON_INTERPRET=1 to run its kernels in the interpreter."
    if not torch.cuda.is_available():
        return "torch sees no CUDA device. Use a CUDA build of torch on a machine with an NVIDIA GPU."
    return (
        _load_library(
            CUDA_LIBRARY,
            "the CUDA extension",
            "the CUDA toolkit",
            ', or use backend="triton"',
        )
        or _cuda_does_not_run()
    )


def _cuda_does_not_run() -> str:
    """Return the reason why the kernels of the loaded CUDA library cannot run on torch's current device, or ""."""
    if error := _cuda_error(CUDA_LIBRARY):
        return (
            f"the CUDA extension does not run on {torch.cuda.get_device_name()} ({error}). Update the NVIDIA driver "
            'and reinstall betavae_fast on this machine, or use backend="triton".'
        )
    return ""


def _cuda_error(library: Path) -> str:
    """Return CUDA's own reason why a kernel of ``library`` cannot run on the current device, or ""."""
    probe = ctypes.CDLL(str(library)).betavae_fast_cuda_error
    probe.restype = ctypes.c_char_p
    error: bytes | None = probe()
    return "" if error is None else error.decode()


def choose(backend: str, device: str, dtype: torch.dtype) -> str:
    """The backend for tensors of ``device`` ("cpu", "cuda", …). An explicit choice never falls back to another."""
    return _choose(backend, device, dtype)


# torch.compile treats the answer as a constant. torch.compiler.assume_constant_result does nothing else, but imports
# torch._dynamo and, with it, Triton.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]
triton_serves._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _choose(backend: str, device: str, dtype: torch.dtype) -> str:
    float64 = dtype == torch.float64
    if backend == "auto":
        kernels = () if float64 and device == "cuda" else _KERNELS.get(device, ())
        chosen = next(b for b in (*kernels, "eager") if not missing(b))
        if kernels and chosen == "eager":
            _warn_of_missing_kernels(device)
        return chosen
    if backend not in BACKENDS:
        raise ValueError(
            f"backend must be one of {', '.join(map(repr, ('auto', *BACKENDS)))}, got {backend!r}"
        )
    if reason := missing(backend):
        raise RuntimeError(f'backend="{backend}" is not available: {reason}')
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    runs_on = {"cpp": ("cpu",), "cuda": ("cuda",), "triton": ("cpu", "cuda") if interpreted else ("cuda",)}
    if device not in runs_on.get(backend, (device,)):
        raise ValueError(
            f'backend="{backend}" runs on {" and ".join(runs_on[backend])} tensors, got a {device} tensor'
        )
    if float64 and backend in ("triton", "cuda"):
        raise TypeError(
            f'backend="{backend}" computes in float32: use "eager" for float64 tensors on {device}'
        )
    return backend


def _warn_of_missing_kernels(device: str) -> None:
    """Warn that tensors of ``device`` are computed without kernels, with the reason and the remedy.

    The warning is counted here, once per process, because Python's filters may show the same warning again.
    """
    if device in _warned_of:
        return
    _warned_of.add(device)
    reasons = " ".join(map(missing, _KERNELS[device]))
    warnings.warn(
        f'betavae_fast computes {device} tensors in plain torch (backend="eager"); kernels would be faster: '
        f"{reasons}",
        stacklevel=2,
    )


def backend_table() -> list[BackendStatus]:
    """The state of every backend on this machine."""
    return [BackendStatus(backend, not missing(backend), missing(backend)) for backend in BACKENDS]


def cpu_capability() -> str | None:
    """The instruction set the C++ kernels chose: "baseline", "avx2", "avx512", "avx512_bf16" or "amx"; None if they are
    missing."""
    if missing("cpp"):
        return None
    name = ctypes.CDLL(str(CPP_LIBRARY)).betavae_fast_cpu_capability
    name.restype = ctypes.c_char_p
    return name().decode()
