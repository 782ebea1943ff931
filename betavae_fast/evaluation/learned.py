"""Says what a model has learned: the factor that each channel in use follows.

A channel's share of a factor is the mutual information of its mean code and the factor over the factor's entropy. Unused
channels are left out, because they tell the decoder nothing, whatever their mean codes depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from betavae_fast.evaluation.factor_table import BINS, FactorTable
from betavae_fast.evaluation.summary import Channel, Summary

FOLLOWS_FROM = 0.25
"""The least share of a factor at which a channel follows it.

A quarter of the entropy of 32 positions is ln(32)/4 = 0.87 nats. A Gaussian code that knows as much of a Gaussian
position leaves exp(−0.87) = 42% of its standard deviation open.
"""

RIVAL_FROM = 0.5
"""The share above which another factor or channel is a rival, relative to the share in question.

A rival factor makes the channel a mixture, and a rival channel shares the factor. At half the share the two differ by as
much as the second has in all, so that the first leads clearly.
"""

MIXES_FROM = 0.1
"""The least share of each factor that a channel mixes.

A tenth of the entropy of 32 positions is 0.35 nats, ½ ln 2. A Gaussian code with this information varies with the
position as much as with everything else; with less, everything else prevails.
"""

_MOST_MIXED = 4
_MOST_UNFOLLOWED = 10  # factors named in a sentence; evaluation.json has all

Relation = Literal["follows", "shares", "mixes", "none", "unknown"]
"""The relation of a channel to the factors, in the order of the report; "unknown" if the data's factors are not known."""

RULE = (
    f"A channel follows a factor if it knows at least {FOLLOWS_FROM:.0%} of the factor's entropy and at most half as "
    "much of each other factor, and each other channel in use knows at most half as much of this one. If another channel "
    "in use knows more, the two share the factor. A channel mixes factors if it knows at least "
    f"{MIXES_FROM:.0%} of the entropy of each, and of each more than half as much as of the one that it knows best. "
    f"Otherwise it follows none. What a channel knows is measured on its mean codes in {BINS} bins."
)
"""The definition of these words, for readers of a report; "half" is ``RIVAL_FROM``."""


@dataclass(frozen=True)
class Known:
    """A channel's share of a factor's entropy, beside the largest share of another channel in use."""

    factor: str
    share: float  # in [0, 1]
    next_channel: int | None  # None if no other channel is in use
    next_share: float  # 0 if no other channel is in use


@dataclass(frozen=True)
class LearnedChannel:
    """A channel in use and what it follows.

    ``known`` holds the factor that it follows or shares, the factors that it mixes, or, if it follows none, the one of
    which it knows the largest share; the largest share comes first.
    """

    channel: Channel
    relation: Relation
    known: tuple[Known, ...]

    @property
    def name(self) -> str:
        """The channel's name by what it follows."""
        if self.relation == "unknown":
            return f"Channel {self.channel.index}"
        if self.relation == "none":
            return "No factor"
        ending = {"follows": "", "shares": ", shared", "mixes": ", mixed"}[self.relation]
        return _joined([known.factor for known in self.known], most=_MOST_MIXED) + ending

    @property
    def sentence(self) -> str:
        """The relation and its numbers in a sentence."""
        nats = f"{self.channel.kl:.1f} nats"
        if self.relation == "unknown":
            return f"Channel {self.channel.index} carries {nats}."
        first = self.known[0]
        if self.relation == "follows":
            nobody = first.next_channel is None
            others = (
                "no other channel is in use"
                if nobody
                else f"no other channel in use knows more than {first.next_share:.0%}"
            )
            told = f"follows {first.factor}: it knows {first.share:.0%} of the factor's entropy; {others}"
        elif self.relation == "shares":
            told = (
                f"shares {first.factor} with channel {first.next_channel}: they know {first.share:.0%} and "
                f"{first.next_share:.0%} of the factor's entropy"
            )
        elif self.relation == "mixes":
            first_few = self.known[: _shown(len(self.known), _MOST_MIXED)]
            shares = _joined([f"{known.share:.0%}" for known in first_few])
            factors = _joined([known.factor for known in self.known], most=_MOST_MIXED)
            of_which = "" if len(first_few) == len(self.known) else f"of the first {len(first_few)} "
            told = f"mixes {factors}: {of_which}it knows {shares} of their entropies"
        else:
            told = (
                f"follows no factor: it knows {first.factor} best, {first.share:.0%} of the factor's entropy"
            )
        return f"Channel {self.channel.index} ({nats}) {told}."


@dataclass(frozen=True)
class Unfollowed:
    """A factor that no channel follows or shares, and the channel in use with the largest share of it."""

    factor: str
    channel: int | None  # None if no channel is in use
    share: float  # of the factor's entropy; 0 if no channel is in use


@dataclass(frozen=True)
class Learned:
    """The channels in use by what they follow, and the factors that none follows or shares.

    A factor that channels only mix is among the latter: none of them shows it alone.

    The channels that follow a factor come first, in the order of the factors, then those that share one, mix several and
    follow none. If the data's factors are not known, the channels are sorted by their KLs.
    """

    channels: tuple[LearnedChannel, ...]
    unfollowed: tuple[Unfollowed, ...]

    @property
    def sentences(self) -> list[str]:
        """A sentence for each channel in use, and one about the factors left, if there are any."""
        return [*(row.sentence for row in self.channels), *([] if self.rest is None else [self.rest])]

    @property
    def rest(self) -> str | None:
        """A sentence about the factors that no channel follows or shares; None if there are none."""
        if not self.unfollowed:
            return None
        factors = [
            rest.factor
            if rest.channel is None
            else f"{rest.factor} (channel {rest.channel} knows the most, {rest.share:.0%} of its entropy)"
            for rest in self.unfollowed
        ]
        return f"No channel follows {_joined(factors, 'or', _MOST_UNFOLLOWED)}."


def what_was_learned(summary: Summary, table: FactorTable | None) -> Learned:
    """Name each channel in use by the factor that it follows.

    Args:
        table: the shares of all channels; None if the data's factors are not known.
    """
    if table is None:
        return Learned(tuple(LearnedChannel(channel, "unknown", ()) for channel in summary.used), ())
    used = [channel.index for channel in summary.used]
    rows = [_learned(channel, used, table) for channel in summary.used]
    rows.sort(
        key=lambda row: (get_args(Relation).index(row.relation), table.names.index(row.known[0].factor))
    )
    told = {row.known[0].factor for row in rows if row.relation in ("follows", "shares")}
    rest = [_unfollowed(factor, used, table) for factor in table.names if factor not in told]
    return Learned(tuple(rows), tuple(rest))


def _learned(channel: Channel, used: Sequence[int], table: FactorTable) -> LearnedChannel:
    shares = table.shares[channel.index]
    first, *others = np.argsort(-shares, kind="stable").tolist()
    rivals = [
        factor
        for factor in others
        if shares[factor] > RIVAL_FROM * shares[first] and shares[factor] >= MIXES_FROM
    ]
    known = tuple(_known(channel, factor, used, table) for factor in (first, *rivals))
    if rivals:
        return LearnedChannel(channel, "mixes", known)
    if shares[first] < FOLLOWS_FROM:
        return LearnedChannel(channel, "none", known)
    is_shared = known[0].next_share > RIVAL_FROM * known[0].share
    return LearnedChannel(channel, "shares" if is_shared else "follows", known)


def _known(channel: Channel, factor: int, used: Sequence[int], table: FactorTable) -> Known:
    of_channel = table.shares[:, factor]
    best = max(
        (index for index in used if index != channel.index), key=lambda index: of_channel[index], default=None
    )
    next_share = 0.0 if best is None else float(of_channel[best])
    return Known(table.names[factor], float(of_channel[channel.index]), best, next_share)


def _unfollowed(factor: str, used: Sequence[int], table: FactorTable) -> Unfollowed:
    of_channel = table.shares[:, table.names.index(factor)]
    best = max(used, key=lambda index: of_channel[index], default=None)
    return Unfollowed(factor, best, 0.0 if best is None else float(of_channel[best]))


def _joined(words: Sequence[str], last: str = "and", most: int | None = None) -> str:
    """The words as a list in a sentence. If they are more than ``most``, the others are counted.

    >>> _joined(["shape", "scale", "posX"], "or")
    'shape, scale or posX'
    >>> _joined(["shape", "scale", "posX"], "or", most=1)
    'shape or 2 others'
    """
    if most is not None and (shown := _shown(len(words), most)) < len(words):
        words = [*words[:shown], f"{len(words) - shown} others"]
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def _shown(count: int, most: int) -> int:
    """The number of items to name. A single further one is named, too, because counting it is no shorter."""
    return count if count <= most + 1 else most
