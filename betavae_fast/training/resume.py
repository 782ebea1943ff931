"""Going on with a run that was stopped or killed, as if it had not been."""

from __future__ import annotations

from betavae_fast.data.errors import DatasetError
from betavae_fast.data.identity import describe_difference
from betavae_fast.data.images import ImageDataset
from betavae_fast.files import remove_leftovers
from betavae_fast.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    tidy_checkpoint,
)
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.metrics import drop_metrics_after
from betavae_fast.training.run_folder import RunFolder, read_config, read_data_identity, write_config
from betavae_fast.training.state import TrainState, prepare


def read_run(folder: RunFolder) -> tuple[TrainConfig, Checkpoint | None]:
    """What the run in ``folder`` was told, and its checkpoint: None if it was killed before its first.

    Raises: CheckpointError if the checkpoint is damaged, or there is neither one nor a whole config.json.
    """
    if not has_checkpoint(folder.checkpoint):
        return read_config(folder), None
    checkpoint = load_checkpoint(folder.checkpoint)
    return checkpoint.config, checkpoint


def resume(
    folder: RunFolder | None, config: TrainConfig, checkpoint: Checkpoint | None, dataset: ImageDataset
) -> TrainState:
    """The run in ``folder``, ready for the step after its checkpoint, with what it logged after that dropped.
    Of several processes, all but the one that writes give None for the folder.

    With the run's own configuration, on the same machine, the steps to come give the same weights and metrics
    as if the run had never ended, bit for bit.

    Raises: DatasetError if the images are not those the run was trained on; CheckpointError if metrics.jsonl is
        damaged; and what ``prepare`` raises.
    """
    trained_on = None
    if checkpoint is not None:
        trained_on = checkpoint.data
    elif folder is not None:
        trained_on = read_data_identity(folder)
    if difference := describe_difference(dataset, trained_on):
        raise DatasetError(f"{difference}; give the images it was trained on")
    state = prepare(config, dataset)
    if checkpoint is not None:
        checkpoint.restore(state.model, state.optimizer, state.objective)
        state.step = checkpoint.step
    if folder is not None:
        if checkpoint is not None:
            tidy_checkpoint(folder.checkpoint)
        for place in (folder.path, folder.pictures):
            remove_leftovers(place)
        drop_metrics_after(folder.metrics, state.step)
        write_config(folder, state.config, dataset.identity)
    return state
