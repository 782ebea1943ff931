"""Checkpoints: weights and optimizer state as safetensors, everything else as JSON; nothing is ever
unpickled.

    checkpoint/
      model-00003000-1f0c….safetensors       the model's state dict, loadable by any tool
      optimizer-00003000-8b52….safetensors   Adam's tensors, as "<parameter>.<quantity>"
      objective-00003000-77aa….safetensors   the objective's state dict and its optimizer's tensors, as
                                             "optimizer.<parameter>.<quantity>"; no file if it has no state
      best-00001500-20b9….safetensors        the state dict of the model with the lowest validation loss, as of this
                                             checkpoint; no file without validation
      latest.json                            the step, the run's configuration, the identity of its data and of the
                                             images to validate with, step and loss of the best model, the model's
                                             arguments, the names and SHA-256 of the files, and its own SHA-256

A published model (:func:`copy_model`) has neither optimizer nor objective file.

``latest.json`` is replaced last and atomically, and files it no longer names are removed only after that: a
process killed at any moment leaves either the previous checkpoint or the new one, complete.
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
from torch import Tensor, nn
from torch.optim import Optimizer

from betavae_fast.choices import Kept
from betavae_fast.data.identity import DataIdentity
from betavae_fast.files import atomic_writer, remove_leftovers
from betavae_fast.nn import BetaVAE
from betavae_fast.nn.pretrained import build_empty, mismatch
from betavae_fast.objectives import Objective
from betavae_fast.training.checked_json import RunFileError, read_checked, read_file, write_checked
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.validation import BestModel

FORMAT = 2
_READABLE = (1, 2)  # format 1 does not record the data
_INDEX = "latest.json"
_OPTIMIZER = "optimizer."


class NotFiniteError(ValueError):
    """A tensor to be saved holds a NaN or an infinity."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk. Its checksums are verified, and its tensors fit the model it describes."""

    path: Path  # latest.json
    step: int
    config: TrainConfig
    data: DataIdentity | None  # identity of the training images; None if not recorded
    model_arguments: dict[str, Any]  # keyword arguments of BetaVAE
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # empty in a published model
    objective: dict[str, Tensor]  # tensors of its file; ``restore`` checks them
    held_out: DataIdentity | None = None  # identity of the images to validate with
    best: BestModel | None = None  # None before the first validation

    def build_model(self, kept: Kept = "latest") -> BetaVAE:
        """The trained model, or the one with the lowest validation loss, on the CPU, in evaluation mode.

        Raises: RunFileError if no best model was kept.
        """
        model = build_empty(BetaVAE, self.model_arguments)
        state = self.model if kept == "latest" else self._best_model().model
        model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        return model.eval()

    def step_of(self, kept: Kept) -> int:
        """The number of steps after which a model was kept.

        Raises: RunFileError as ``build_model``.
        """
        return self.step if kept == "latest" else self._best_model().step

    def _best_model(self) -> BestModel:
        if self.best is None or not self.best.model:
            raise RunFileError(
                f"{self.path}: no best model was kept, which takes a validation (train --validation)"
            )
        return self.best

    def restore(self, model: BetaVAE, optimizer: Optimizer, objective: Objective) -> None:
        """Load the saved state into ``model``, the ``optimizer`` of its parameters, and ``objective``.

        They may be on any device and have any memory layout.

        Raises: RunFileError if the model or the objective differs from the checkpoint's, or the optimizer was not saved.
        """
        if not self.optimizer:
            raise RunFileError(
                f"{self.path}: a published model without its optimizer, which cannot be trained on"
            )
        _check_tensors(self.path, self.model, model.state_dict())
        expected = objective.state_dict() | _named(_OPTIMIZER, _expected_optimizer_tensors(objective))
        _check_tensors(self.path, self.objective, expected)
        model.load_state_dict(self.model)
        _restore_optimizer(optimizer, model, self.optimizer)
        objective.load_state_dict({name: self.objective[name] for name in objective.state_dict()})
        if objective.optimizer is not None:
            _restore_optimizer(objective.optimizer, objective, self.objective, _OPTIMIZER)


def save_checkpoint(
    folder: Path,
    step: int,
    config: TrainConfig,
    model: BetaVAE,
    optimizer: Optimizer,
    objective: Objective,
    data: DataIdentity | None = None,
    held_out: DataIdentity | None = None,
    best: BestModel | None = None,
) -> None:
    """Write the state after ``step`` steps into ``folder`` (created if missing), replacing the checkpoint
    there. Only one process at a time may write into a folder.

    Args:
        data, held_out: the identities of the images trained on, and of those to validate with.
        best: the model with the lowest validation loss so far.
    Raises: NotFiniteError if a tensor of the model, its optimizer or the objective holds a NaN or an infinity; the
        checkpoint in ``folder`` then stays as it is.
    """
    states = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizer)}
    if state := _objective_tensors(objective):
        states["objective"] = state
    if best is not None:
        states["best"] = best.model
    _check_finite(states)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, state in states.items():
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        digest = hashlib.sha256(content).hexdigest()
        # The digest in the name keeps us from overwriting a file that the index still lists.
        made = best.step if best is not None and kind == "best" else step
        name = f"{kind}-{made:08d}-{digest[:8]}.safetensors"
        with atomic_writer(folder / name) as file:
            file.write(content)
        files[kind] = {"name": name, "sha256": digest}
    _sync_folder(folder)  # the new files are on disk before the index that lists them
    index = {
        "format": FORMAT,
        "step": step,
        "config": config.entries(),
        "data": data and asdict(data),
        "held_out": held_out and asdict(held_out),
        "best": best and {"step": best.step, "loss": best.loss, "later": best.later},
        "model": model.arguments(),
        "files": files,
    }
    write_checked(folder / _INDEX, index)
    _sync_folder(folder)  # the index is on disk before the old files are removed
    tidy_checkpoint(folder)


def copy_model(source: Path, folder: Path) -> None:
    """Copy the model of the checkpoint in ``source`` into ``folder`` (created if missing), without the state of training.

    That is a third of the checkpoint. The copy can be evaluated but not trained on.

    Raises: RunFileError if the checkpoint is missing or damaged.
    """
    load_checkpoint(source)
    index = read_checked(source / _INDEX)
    model = index["files"]["model"]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_writer(folder / model["name"]) as file:
        file.write(read_file(source / model["name"]))
    write_checked(folder / _INDEX, index | {"files": {"model": model}})


def tidy_checkpoint(folder: Path) -> None:
    """Remove the files that killed processes left in ``folder`` beside its checkpoint.

    Only the process that writes checkpoints there may call this.

    Raises: RunFileError if there is no checkpoint, or its index is damaged.
    """
    files = read_checked(folder / _INDEX)["files"]
    kept = {file["name"] for file in files.values()}
    for kind in files:
        for old in folder.glob(f"{kind}-*.safetensors"):
            if old.name not in kept:
                old.unlink()
    remove_leftovers(folder)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether a checkpoint was ever completed in ``folder``, even if it is damaged by now."""
    return os.path.lexists(folder / _INDEX)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in ``folder``.

    Raises: RunFileError, naming the file, if a file is missing, differs from its checksum, cannot be read, or
        does not hold the tensors of the model that the index describes.
    """
    index = folder / _INDEX
    described = read_checked(index)
    if described.get("format") not in _READABLE:
        raise RunFileError(
            f"{index}: format {described.get('format')}, this version reads formats "
            f"{' and '.join(map(str, _READABLE))}"
        )
    try:
        step, config, arguments = (
            described["step"],
            TrainConfig.from_entries(described["config"]),
            described["model"],
        )
        if type(step) is not int or step < 0:
            raise ValueError(f"step {step!r}")
        data, held_out = (
            DataIdentity.from_json(described[name]) if described.get(name) else None
            for name in ("data", "held_out")
        )
        best = described.get("best") and BestModel(**described["best"], model={})
        model = build_empty(BetaVAE, arguments)
        weights = model.state_dict()
        expected = {"model": weights, "optimizer": _expected_optimizer_tensors(model), "best": weights}
        # A model that was published has no optimizer and no best model; an objective may have no state.
        kinds = [
            "model",
            *(kind for kind in ("optimizer", "objective", "best") if kind in described["files"]),
        ]
        files = {
            kind: (described["files"][kind]["name"], described["files"][kind]["sha256"]) for kind in kinds
        }
        # .name, so that no path leads out of the folder.
        paths = {kind: folder / Path(name).name for kind, (name, _) in files.items()}
    except Exception as error:
        # A right checksum does not prove that we wrote the file: any entry may be missing or malformed.
        raise RunFileError(f"{index}: not a checkpoint's index ({type(error).__name__}: {error})") from error
    states = {kind: _read_tensors(paths[kind], files[kind][1]) for kind in kinds}
    for kind, state in states.items():
        if kind in expected:
            _check_tensors(paths[kind], state, expected[kind])
    return Checkpoint(
        index,
        step,
        config,
        data,
        arguments,
        states["model"],
        states.get("optimizer", {}),
        states.get("objective", {}),
        held_out,
        best and best._replace(model=states.get("best", {})),
    )


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise RunFileError(f"{path}: damaged, its SHA-256 is {digest}, expected {sha256}")
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        # safetensors raises its own error for a broken header, torch several for impossible entries in a valid one.
        raise RunFileError(f"{path}: not a safetensors file ({error})") from error


def _check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise RunFileError unless ``found`` has the names, shapes and dtypes of ``expected``."""
    if difference := mismatch(found, expected):
        raise RunFileError(f"{path}: {difference}")


def _check_finite(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise NotFiniteError, naming the first tensor, unless every number is finite."""
    named = [(f"{kind}'s {name}", tensor) for kind, state in states.items() for name, tensor in state.items()]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()  # one wait for the device
    for (name, _), is_finite in zip(named, finite, strict=True):
        if not is_finite:
            raise NotFiniteError(f"the {name} is not finite")


def _objective_tensors(objective: Objective) -> dict[str, Tensor]:
    """The tensors that an objective carries from step to step. Most objectives have none."""
    state: dict[str, Tensor] = objective.state_dict()
    if objective.optimizer is not None:
        state |= _named(_OPTIMIZER, _optimizer_tensors(objective, objective.optimizer))
    return state


def _optimizer_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state under the names of the parameters it belongs to; Adam's zeros before its first step."""
    return {
        f"{name}.{quantity}": tensor
        for name, parameter in module.named_parameters()
        for quantity, tensor in (optimizer.state[parameter] or _first_adam_state(parameter)).items()
    }


def _first_adam_state(parameter: Tensor) -> dict[str, Tensor]:
    return {quantity: torch.zeros_like(like) for quantity, like in _adam_state(parameter).items()}


def _expected_optimizer_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{quantity}": tensor
        for name, parameter in module.named_parameters()
        for quantity, tensor in _adam_state(parameter).items()
    }


def _restore_optimizer(
    optimizer: Optimizer, module: nn.Module, saved: Mapping[str, Tensor], prefix: str = ""
) -> None:
    """Load the result of ``_optimizer_tensors``, with ``prefix`` before its names, into the optimizer of ``module``."""
    # The fused Adam walks through parameter, gradient and moments in memory order, so their layouts must agree.
    state = {
        index: {
            quantity: torch.empty_like(like).copy_(saved[f"{prefix}{name}.{quantity}"])
            for quantity, like in _adam_state(parameter).items()
        }
        for index, (name, parameter) in enumerate(module.named_parameters())
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _adam_state(parameter: Tensor) -> dict[str, Tensor]:
    """Uninitialised tensors with the names, shapes and layouts of Adam's state for ``parameter``."""
    return {
        "step": torch.empty((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.empty_like(parameter),
        "exp_avg_sq": torch.empty_like(parameter),
    }


def _sync_folder(folder: Path) -> None:
    """Flush renames in ``folder`` to disk. Windows cannot open a folder, and needs no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
