"""Says in sentences what an evaluation found."""

from __future__ import annotations

from betavae_fast.choices import ACTIVE_NATS
from betavae_fast.evaluation.importance import ImportanceBound
from betavae_fast.evaluation.learned import Learned
from betavae_fast.evaluation.summary import Summary


def findings(summary: Summary, learned: Learned) -> list[str]:
    """Sentences about the channels in use, what each of them follows, the factors left, and the reconstruction."""
    return [use_of_channels(summary), *learned.sentences, reconstruction(summary)]


def use_of_channels(summary: Summary) -> str:
    """The sentence about the number of channels in use and their nats."""
    total, active = len(summary.channels), summary.active_channels
    if active == 0:
        return f"None of {total} channels is used: each carries at most {ACTIVE_NATS} nats."
    nats = f"{sum(channel.kl for channel in summary.used):.1f} nats per image"
    if active == 1:
        return f"1 of {total} channels is used; it carries {nats}."
    return f"{active} of {total} channels are used; together they carry {nats}."


def reconstruction(summary: Summary) -> str:
    """The sentences about the reconstruction loss at mean and sampled codes, and the loss at β = 1."""
    mean_image, least = summary.mean_image_reconstruction, summary.least_reconstruction
    if least < 0.05:  # binary pixels
        gained = 1 - summary.reconstruction / mean_image
        where = (
            f"{abs(gained):.0%} {'below' if gained >= 0 else 'above'} the {mean_image:.1f} nats of a model that always "
            "outputs the mean image"
        )
    elif summary.explained < 0:
        where = f"above the {mean_image:.1f} nats of a model that always outputs the mean image"
    else:  # a density has a constant, and grey pixels have an entropy, which would hide what was gained
        where = (
            f"{summary.explained:.0%} of the way from the {mean_image:.1f} nats of a model that always outputs the mean "
            f"image to the {least:.1f} nats of a perfect one"
        )
    return (
        f"The reconstruction loss at the mean code is {summary.reconstruction:.1f} nats per image, {where}. At a sampled "
        f"code, as in training, it is {summary.sampled_reconstruction:.1f} nats; with the KL that makes a loss of "
        f"{summary.negative_elbo:.1f} nats at β = 1 (−ELBO)."
    )


def of_held_out(summary: Summary, unseen: Summary) -> str:
    """The sentence about the losses of held-out images, beside those of training images."""
    difference = unseen.negative_elbo - summary.negative_elbo
    return (
        f"On {unseen.images:,} images that were never trained on, the loss at β = 1 (−ELBO) is "
        f"{unseen.negative_elbo:.1f} nats per image: {unseen.sampled_reconstruction:.1f} of reconstruction at a sampled "
        f"code and {unseen.kl:.1f} of KL. That is {abs(difference):.1f} nats "
        f"{'above' if difference >= 0 else 'below'} the loss on {summary.images:,} training images."
    )


def of_importance(bound: ImportanceBound, *, held_out: bool) -> str:
    """The sentence about an importance-weighted bound."""
    codes = "1 code" if bound.samples == 1 else f"{bound.samples:,} codes"
    return (
        f"The importance-weighted bound of log p(x) with {codes} per image is {bound.mean:.2f} ± "
        f"{bound.standard_error:.2f} nats, mean and standard error over {len(bound.per_image):,} "
        f"{'held-out ' if held_out else ''}images."
    )
