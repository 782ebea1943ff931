"""The published weights of github.com/YannDubs/disentangling-vae as a model, and as a run that can be evaluated.

That repository (read at f045219) has trained models of six objectives on dSprites, MNIST, CelebA and chairs, each as
results/NAME/model.pt. Their network is that of Burgess et al. 2018, the architecture ``burgess`` here:

    model = load_disentangling_vae("results/betaB_dsprites/model.pt")
    to_run(model, "runs/betaB")

``betavae-fast evaluate runs/betaB`` then measures it like any run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from betavae_fast.data import absolute
from betavae_fast.evaluation.summary import summarise
from betavae_fast.nn import BetaVAE
from betavae_fast.training.checkpoint import save_checkpoint
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry, LogWriter
from betavae_fast.training.run_folder import RunFolder, create_run_folder
from betavae_fast.training.state import TrainState, prepare
from betavae_fast.training.trained_run import load_images


def load_disentangling_vae(path: str | os.PathLike[str]) -> BetaVAE:
    """Read a model.pt of disentangling-vae.

    Their last layer of the encoder gives mean and log-variance of each latent dim in turn; here all means come first.
    Images, latents and logits are the same, except that their decoder ends in a sigmoid and this one in its logits.

    Returns: the model on the CPU, in evaluation mode, for images of 64×64 or 32×32 as the weights say, float32, with a
        Bernoulli likelihood.
    Raises: OSError if the file cannot be read; ValueError, naming the file, if it holds anything but such weights.
        Nothing but tensors is unpickled.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises errors of many kinds for bytes that are no file of weights
        # Not its text, which goes on to say how a file is loaded that may run any code.
        raise ValueError(f"{path}: not a file that holds only weights ({type(error).__name__})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: not the state of a model, but {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: not the state of a model ({name!r} is {type(value).__name__})")
    stages = 4 if "encoder.conv_64.weight" in state else 3
    names = dict(_names(stages))
    try:
        if missing := names.keys() - state.keys():
            raise ValueError(f"it has no tensor {min(missing)!r}")
        if unknown := state.keys() - names.keys():
            raise ValueError(f"it has an unknown tensor {min(map(str, unknown))!r}")
        channels, latent_dim = (
            state[name].shape[1] for name in ("encoder.conv1.weight", "decoder.lin1.weight")
        )
        with torch.device("meta"):  # takes no memory, and leaves the caller's random generator alone
            model = BetaVAE((channels, 4 << stages, 4 << stages), latent_dim, "burgess")
        renamed = {ours: state[theirs] for theirs, ours in names.items()}
        for name, like in model.state_dict().items():
            _check(name, renamed[name], like)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: not weights of disentangling-vae ({error})") from error
    for name in ("encoder.moments.weight", "encoder.moments.bias"):
        renamed[name] = torch.cat((renamed[name][0::2], renamed[name][1::2]))
    # Tensors of a file may share memory, and these are copies.
    model.to_empty(device="cpu").load_state_dict(renamed)
    return model.eval()


def to_run(
    model: BetaVAE, out: str | os.PathLike[str], data: str | os.PathLike[str] = "dsprites", **settings: Any
) -> RunFolder:
    """Write the folder of a run that starts from the weights of ``model`` and has taken no step.

    ``betavae-fast evaluate`` and ``traverse`` take it, and ``train --resume`` trains on from these weights with a new
    Adam. Its log has one entry, of step 0: the losses of up to 4,096 images of ``data``, measured here, in nats. The
    folder says nothing of how the weights were trained.

    Args:
        out: the run's folder, new or empty.
        data: the run's images, a name or a path.
        settings: settings of :class:`betavae_fast.training.config.TrainConfig` for the steps to come.
    Raises: FileExistsError if ``out`` is not empty; DatasetError if the images cannot be loaded; ValueError if their
        shape is not the model's.
    """
    config = TrainConfig(
        data=absolute(data),
        architecture=model.architecture,
        latent_dim=model.latent_dim,
        likelihood=model.likelihood,
        scale=model.scale,
        **{"precision": "fp32", **settings},
    )
    dataset = load_images(config)
    if dataset.image_shape != model.image_shape:
        raise ValueError(
            f"{out}: the model takes images of shape {model.image_shape}, but {data} has {dataset.image_shape}"
        )
    if isinstance(config.batch_size, int):
        config = replace(config, batch_size=min(config.batch_size, len(dataset)))
    state = prepare(config, dataset)
    state.model.load_state_dict(model.state_dict())
    folder = create_run_folder(state.config, Path(out))
    with LogWriter(folder.metrics, folder.tensorboard, 0) as log:
        log.write(_measured(state))
    save_checkpoint(folder.checkpoint, 0, state.config, state.model, state.optimizer, state.objective)
    return folder


def _check(name: str, found: Tensor, like: Tensor) -> None:
    if (found.shape, found.dtype) != (like.shape, like.dtype):
        raise ValueError(
            f"{name} is {found.dtype} of shape {tuple(found.shape)}, "
            f"expected {like.dtype} of shape {tuple(like.shape)}"
        )
    if found.layout != torch.strided or found.is_meta or not found.isfinite().all():
        raise ValueError(f"{name} does not hold finite numbers alone")


def _names(stages: int) -> Iterator[tuple[str, str]]:
    """The name of each tensor there and here."""
    larger = stages == 4
    convolutions = ["conv1", "conv2", "conv3", *(["conv_64"] if larger else [])]
    transposed = [*(["convT_64"] if larger else []), "convT1", "convT2", "convT3"]
    layers = {f"encoder.{name}": f"encoder.conv{i}" for i, name in enumerate(convolutions, start=1)}
    layers |= {f"decoder.{name}": f"decoder.deconv{i}" for i, name in enumerate(transposed, start=1)}
    layers |= {f"encoder.lin{i}": f"encoder.fc{i}" for i in (1, 2)}
    layers |= {f"decoder.lin{i}": f"decoder.fc{i}" for i in (1, 2, 3)}
    layers["encoder.mu_logvar_gen"] = "encoder.moments"
    for theirs, ours in layers.items():
        for kind in ("weight", "bias"):
            yield f"{theirs}.{kind}", f"{ours}.{kind}"


def _measured(state: TrainState) -> LogEntry:
    """The losses of up to 4,096 images with sampled latents, as a step of training has them, averaged over the images."""
    summary = summarise(state.model.eval(), state.dataset)
    channels = sorted(summary.channels, key=lambda channel: channel.index)
    return LogEntry(
        step=0,
        images=0,
        seconds=0.0,
        images_per_second=0.0,
        loss=summary.negative_elbo,
        reconstruction=summary.sampled_reconstruction,
        kl=summary.kl,
        kl_per_dim=[channel.kl for channel in channels],
        mean_dispersion=[channel.mean_dispersion for channel in channels],
        variance=[channel.variance for channel in channels],
    )
