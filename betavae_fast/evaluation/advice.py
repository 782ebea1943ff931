"""Says what would help a run that has learned little.

The limits here are rules of thumb. A run that reaches none of them gets no advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from betavae_fast.evaluation.summary import Summary
from betavae_fast.training.config import TrainConfig
from betavae_fast.training.log import LogEntry

LOST = 0.2
"""The share of what a run had gained on the mean image, from which a loss that rose again counts as lost."""

STILL_FALLING = 0.02
"""The share of what can be gained on the mean image, from which a fall in the last tenth of a run counts."""


def advice(summary: Summary, history: Sequence[LogEntry], config: TrainConfig) -> list[str]:
    """Sentences about a training that came apart, channels that stayed shut, and a loss that was still falling.

    Args:
        summary: the run's losses and channels.
        history: the run's log, in nats per image.
    """
    return [
        *_of_a_training_that_came_apart(summary, history, config),
        *_of_shut_channels(summary, config),
        *_of_a_loss_still_falling(summary, history, config),
    ]


def _of_a_training_that_came_apart(
    summary: Summary, history: Sequence[LogEntry], config: TrainConfig
) -> Iterator[str]:
    best = min(history, key=lambda entry: entry.reconstruction)
    lost = history[-1].reconstruction - best.reconstruction
    if lost > LOST * (summary.mean_image_reconstruction - best.reconstruction) > 0:
        yield (
            f"The reconstruction loss had fallen to {best.reconstruction:.1f} nats by step {best.step} and ended at "
            f"{history[-1].reconstruction:.1f}: the training came apart. A lower learning rate keeps what it gains: "
            f"--lr {config.lr / 3:.1g}."
        )


def _of_shut_channels(summary: Summary, config: TrainConfig) -> Iterator[str]:
    if summary.active_channels > 1 or config.latent_dim == 1:
        return
    used = "No channel" if summary.active_channels == 0 else "Only one channel"
    if config.likelihood != "bernoulli" and config.scale > 0.2:
        yield (
            f"{used} is in use. With --scale {config.scale:g}, pixels between 0 and 1 weigh little against the KL: "
            "--scale 0.1 opens more channels."
        )
    else:
        yield (
            f"{used} is in use. A lower --beta opens more, and --initialization kaiming opens them sooner."
        )


def _of_a_loss_still_falling(
    summary: Summary, history: Sequence[LogEntry], config: TrainConfig
) -> Iterator[str]:
    count = len(history) // 10
    if count == 0:
        return
    before, last = (
        fmean(entry.reconstruction for entry in part)
        for part in (history[-2 * count : -count], history[-count:])
    )
    possible = summary.mean_image_reconstruction - summary.least_reconstruction
    if before - last > STILL_FALLING * possible > 0:
        yield (
            f"The reconstruction loss still fell by {before - last:.1f} nats in the last tenth of the run: more steps "
            f"improve it, for example --steps {2 * config.steps}."
        )
