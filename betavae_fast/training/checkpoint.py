"""Checkpoints: weights and optimizer state as safetensors, everything else as JSON; nothing is ever
unpickled.

    checkpoint/
      model-00003000-1f0c….safetensors       the model's state dict, loadable by any tool
      optimizer-00003000-8b52….safetensors   Adam's tensors, as "<parameter>.<quantity>"
      latest.json                            the step, the run's configuration, how to build the model, both
                                             files' names and SHA-256, and its own

``latest.json`` is replaced last and atomically, and files it no longer names are removed only after that: a
process killed at any moment leaves the previous checkpoint or the new one, whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from betavae_fast.data.cache import atomic_writer, remove_leftovers
from betavae_fast.nn import BetaVAE
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.sealed import CheckpointError, read_file, read_sealed, write_sealed

FORMAT = 1
_INDEX = "latest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read back: checksums verified, and its tensors those of the model it describes."""

    path: Path  # of latest.json
    step: int
    config: TrainConfig
    model_arguments: dict[str, Any]  # for BetaVAE(...)
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def build_model(self) -> BetaVAE:
        """The trained model, on the CPU, in evaluation mode."""
        model = _empty_model(self.model_arguments)
        model.load_state_dict({name: tensor.clone() for name, tensor in self.model.items()}, assign=True)
        return model.eval()

    def restore(self, model: BetaVAE, optimizer: Optimizer) -> None:
        """Put weights and optimizer state into ``model`` and the ``optimizer`` of its parameters, whatever
        their device and memory layout.

        Raises: CheckpointError if the model is another one than the checkpoint's.
        """
        _check_tensors(self.path, self.model, model.state_dict())
        model.load_state_dict(self.model)
        # Laid out like the parameters: the fused Adam walks through the memory of all four alike.
        state = {
            index: {
                quantity: torch.empty_like(like).copy_(self.optimizer[f"{name}.{quantity}"])
                for quantity, like in _adam_state(parameter).items()
            }
            for index, (name, parameter) in enumerate(model.named_parameters())
        }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    folder: Path, step: int, config: TrainConfig, model: BetaVAE, optimizer: Optimizer
) -> None:
    """Write the state after ``step`` steps into ``folder`` (made if missing), replacing the checkpoint
    there. Only one process at a time may write into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    states = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizer)}
    files = {}
    for kind, state in states.items():
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        digest = hashlib.sha256(content).hexdigest()
        # With the digest, so that never a file is replaced that the index still tells of.
        name = f"{kind}-{step:08d}-{digest[:8]}.safetensors"
        with atomic_writer(folder / name) as file:
            file.write(content)
        files[kind] = {"name": name, "sha256": digest}
    _sync_folder(folder)  # the new files' names are on disk before the index that tells of them
    index = {
        "format": FORMAT,
        "step": step,
        "config": asdict(config),
        "model": _model_arguments(model),
        "files": files,
    }
    write_sealed(folder / _INDEX, index)
    _sync_folder(folder)  # and the index before the old files go
    tidy_checkpoint(folder)


def tidy_checkpoint(folder: Path) -> None:
    """Remove what killed processes left in ``folder`` beside its checkpoint, as only the one that writes may.

    Raises: CheckpointError if there is no checkpoint, or its index is damaged.
    """
    files = read_sealed(folder / _INDEX)["files"]
    kept = {file["name"] for file in files.values()}
    for kind in files:
        for old in folder.glob(f"{kind}-*.safetensors"):
            if old.name not in kept:
                old.unlink()
    remove_leftovers(folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was ever completed in ``folder``, whole or damaged by now."""
    return os.path.lexists(folder / _INDEX)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in ``folder``.

    Raises: CheckpointError, naming the file, if one is missing, differs from its checksum, cannot be read, or
        does not hold the tensors of the model that the index describes.
    """
    index = folder / _INDEX
    described = read_sealed(index)
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{index}: format {described.get('format')}, this version reads format {FORMAT}"
        )
    try:
        step, config, arguments = described["step"], TrainConfig(**described["config"]), described["model"]
        if type(step) is not int or step < 0:
            raise ValueError(f"step {step!r}")
        model = _empty_model(arguments)
        expected = {"model": model.state_dict(), "optimizer": _expected_optimizer_tensors(model)}
        files = {
            kind: (described["files"][kind]["name"], described["files"][kind]["sha256"]) for kind in expected
        }
        paths = {kind: folder / Path(name).name for kind, (name, _) in files.items()}  # never outside of it
    except Exception as error:
        # Its checksum is right, but that does not make it ours: what it says may fail in any way.
        raise CheckpointError(
            f"{index}: not a checkpoint's index ({type(error).__name__}: {error})"
        ) from error
    states = {kind: _read_tensors(paths[kind], files[kind][1]) for kind in expected}
    for kind, state in states.items():
        _check_tensors(paths[kind], state, expected[kind])
    return Checkpoint(index, step, config, arguments, **states)


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is {digest}, expected {sha256}")
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        # safetensors raises its own error for a broken header, torch several for what a sound one may claim.
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def _check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless ``found`` has the names, shapes and dtypes of ``expected``."""
    for name in sorted(found.keys() ^ expected.keys()):
        raise CheckpointError(f"{path}: {'has no' if name in expected else 'has an unknown'} tensor {name!r}")
    for name, like in expected.items():
        if (found[name].shape, found[name].dtype) != (like.shape, like.dtype):
            raise CheckpointError(
                f"{path}: {name} is {found[name].dtype} of shape {tuple(found[name].shape)}, "
                f"expected {like.dtype} of shape {tuple(like.shape)}"
            )


def _empty_model(arguments: dict[str, Any]) -> BetaVAE:
    """The model without its numbers: neither memory nor the caller's generator is touched."""
    with torch.device("meta"):
        return BetaVAE(**{**arguments, "image_shape": tuple(arguments["image_shape"])})


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


def _expected_optimizer_tensors(model: BetaVAE) -> dict[str, Tensor]:
    return {
        f"{name}.{quantity}": tensor
        for name, parameter in model.named_parameters()
        for quantity, tensor in _adam_state(parameter).items()
    }


def _adam_state(parameter: Tensor) -> dict[str, Tensor]:
    """Tensors like those that Adam keeps of ``parameter``, with anything in them."""
    return {
        "step": torch.empty((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.empty_like(parameter),
        "exp_avg_sq": torch.empty_like(parameter),
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
