"""Checkpoints: weights and optimizer state as safetensors, everything else as JSON; nothing is ever
unpickled.

    checkpoint/
      model-00003000.safetensors       the model's state dict, loadable by any tool
      optimizer-00003000.safetensors   the optimizer's tensors, as "<parameter>.<quantity>"
      latest.json                      the step, how to build the model, and both files' names and SHA-256

``latest.json`` is replaced last and atomically, and files it no longer names are removed only after that: a
process killed at any moment leaves the previous checkpoint or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from betavae_fast.data.cache import atomic_writer
from betavae_fast.nn import BetaVAE

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of a format this version does not know."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read back, checksums verified."""

    step: int
    model_arguments: dict[str, Any]  # for BetaVAE(...)
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def build_model(self) -> BetaVAE:
        """The trained model, on the CPU, in evaluation mode."""
        arguments = dict(self.model_arguments)
        arguments["image_shape"] = tuple(arguments["image_shape"])
        model = BetaVAE(**arguments)
        model.load_state_dict(self.model)
        return model.eval()


def save_checkpoint(folder: Path, step: int, model: BetaVAE, optimizer: Optimizer) -> None:
    """Write the state after ``step`` steps into ``folder`` (made if missing), replacing the checkpoint
    there."""
    folder.mkdir(parents=True, exist_ok=True)
    states = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizer)}
    files = {}
    for kind, state in states.items():
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        name = f"{kind}-{step:08d}.safetensors"
        with atomic_writer(folder / name) as file:
            file.write(content)
        files[kind] = {"name": name, "sha256": hashlib.sha256(content).hexdigest()}
    _sync_folder(folder)  # the new files' names are on disk before the index that tells of them
    index = {"format": FORMAT, "step": step, "model": _model_arguments(model), "files": files}
    with atomic_writer(folder / "latest.json") as file:
        file.write(json.dumps(index, indent=2).encode())
    _sync_folder(folder)  # and the index before the old files go
    kept = {file["name"] for file in files.values()}
    for old in folder.glob("*.safetensors"):
        if old.name not in kept:
            old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in ``folder``.

    Raises: CheckpointError, naming the file, if one is missing, differs from its checksum, or cannot be read.
    """
    index = folder / "latest.json"
    try:
        described = json.loads(index.read_text())
        if described["format"] != FORMAT:
            raise CheckpointError(
                f"{index}: format {described['format']}, this version reads format {FORMAT}"
            )
        states = {kind: _read_tensors(folder, described["files"][kind]) for kind in ("model", "optimizer")}
        return Checkpoint(described["step"], described["model"], **states)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: no such file; is {folder} the checkpoint of a run?"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index}: not a checkpoint's index ({type(error).__name__}: {error})"
        ) from error


def _read_tensors(folder: Path, file: dict[str, str]) -> dict[str, Tensor]:
    path = folder / Path(file["name"]).name  # never outside of the folder
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != file["sha256"]:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is {digest}, expected {file['sha256']}")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def _model_arguments(model: BetaVAE) -> dict[str, Any]:
    return {
        "image_shape": list(model.image_shape),
        "latent_dim": model.latent_dim,
        "architecture": model.architecture,
        "likelihood": model.likelihood,
        "logvar_range": model.latent.logvar_range,
    }


def _optimizer_tensors(model: BetaVAE, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state under the names of the parameters it belongs to."""
    return {
        f"{name}.{quantity}": tensor
        for name, parameter in model.named_parameters()
        for quantity, tensor in optimizer.state[parameter].items()
    }


def _sync_folder(folder: Path) -> None:
    """Put renames in ``folder`` on disk. Windows cannot open a folder, and needs no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
