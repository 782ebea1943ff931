"""Says in sentences what an evaluation found."""

from __future__ import annotations

import numpy as np

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.evaluation.factor_table import FactorTable
from betavae_fast.evaluation.summary import Channel, Summary

_ENCODED_FROM = 0.1  # share of a factor's entropy from which on a channel is said to encode the factor
_LOST_BELOW = 0.05  # share below which a channel is said to tell nothing about the factor


def findings(summary: Summary, table: FactorTable | None) -> list[str]:
    """Sentences about the used channels and the reconstruction.

    If factors are known, also about the factors that each used channel encodes and those that no channel holds.
    """
    sentences = [_channels(summary), _reconstruction(summary)]
    if table is not None:
        active = [channel for channel in summary.channels if channel.active]
        sentences += [_encodes(channel, table) for channel in active]
        sentences += _lost(table)
    return sentences


def _channels(summary: Summary) -> str:
    total, active = len(summary.channels), summary.active_channels
    if active == 0:
        return f"None of {total} channels is used: each carries at most {ACTIVE_NATS} nats."
    verb = "is" if active == 1 else "are"
    return f"{active} of {total} channels {verb} used; together they carry {summary.kl:.1f} nats per image."


def _reconstruction(summary: Summary) -> str:
    gained = 1 - summary.reconstruction / summary.mean_image_reconstruction
    return (
        f"The reconstruction loss at the mean code is {summary.reconstruction:.1f} nats per image, {abs(gained):.0%} "
        f"{'below' if gained >= 0 else 'above'} the {summary.mean_image_reconstruction:.1f} nats of a model that always "
        f"outputs the mean image. At a sampled code, as in training, it is {summary.sampled_reconstruction:.1f} nats; "
        f"with the KL that makes a loss of {summary.negative_elbo:.1f} nats at β = 1 (−ELBO)."
    )


def _encodes(channel: Channel, table: FactorTable) -> str:
    shares = table.shares[channel.index]
    best_first = np.argsort(-shares, kind="stable")
    held = [factor for factor in best_first if shares[factor] >= _ENCODED_FROM]
    name = f"Channel {channel.index} ({channel.kl:.1f} nats)"
    if not held:
        most = best_first[0]
        return (
            f"{name} tells little about any single factor: at most {shares[most]:.2f} of the entropy of "
            f"{table.names[most]}."
        )
    parts = [f"{table.names[factor]} ({shares[factor]:.2f} of its entropy)" for factor in held]
    return f"{name} encodes {' and '.join(parts)}{', mixed' if len(parts) > 1 else ''}."


def _lost(table: FactorTable) -> list[str]:
    most = table.shares.max(axis=0)
    lost = [name for name, share in zip(table.names, most, strict=True) if share < _LOST_BELOW]
    if not lost:
        return []
    return [
        f"No channel alone tells anything about {' or '.join(lost)} (below {_LOST_BELOW} of the entropy)."
    ]
