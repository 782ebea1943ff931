"""The table of all metrics by name: their functions, the numbers to show, and the codes to apply them to.

Each metric is computed over all channels, as published, and over the channels in use. An unused channel tells the decoder
nothing, but its mean code still depends a little on the image. The total correlation, the mutual information and MIG do
not depend on the size of a code, so they count this little like a channel of three nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from betavae_fast.choices import MetricName
from betavae_fast.evaluation import DCI_ROWS, metrics
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.metrics.table import Codes, Factors


class Quantity(NamedTuple):
    """A number in a metric's result, with its values for perfect codes and for noise."""

    label: str
    attribute: str
    perfect: str = "1"
    chance: str = "0"


@dataclass(frozen=True)
class Metric:
    """A metric: its function, and the numbers to show of its result.

    ``compute`` takes codes, factors if it needs them, a generator, and the options that ``takes`` names.
    """

    compute: Callable[..., Any]
    quantities: tuple[Quantity, ...]
    sampled: bool = False  # True if sampled codes are scored as well as mean codes
    needs_factors: bool = True
    takes: tuple[str, ...] = ()
    draws: int = 1  # number of times that rows are drawn and scored; several where this takes little time
    least_used: int = 1  # fewest channels in use over which it is defined
    alone: bool = True  # False if the channels in use are not scored alone, because its classifiers take long


@dataclass(frozen=True)
class Estimate:
    """A score as the mean over draws of rows, and the standard deviation of the draws (with n − 1).

    >>> print(Estimate(0.285, 0.011), Estimate(0.635), Estimate(math.inf))
    0.285 ± 0.011 0.635 infinite
    """

    value: float
    spread: float | None = None  # None for a single draw, and if a draw's score is not finite

    def __str__(self) -> str:
        return number(self.value) + ("" if self.spread is None else f" ± {number(self.spread)}")


@dataclass(frozen=True)
class Scored:
    """One metric's results on one kind of codes."""

    metric: MetricName
    codes: str  # "mean" or "sampled"
    result: Any  # the first draw's over all channels, the metric's own dataclass
    values: dict[str, Estimate]  # by the quantities' attributes, over all channels
    # The same over the channels in use; None if it is undefined or too slow.
    in_use: dict[str, Estimate] | None
    seconds: float


DRAWS = 5
"""The number of draws of a metric that is scored several times."""

_NOT_COMPUTED = "not computed"
_WHY_IN_USE = (
    "An unused channel tells the decoder nothing, but many scores count its code like any other, however little the code "
    "varies. Therefore scores are also given over the channels in use."
)
_WHY_NOT_COMPUTED = f"Scores whose classifiers take long are “{_NOT_COMPUTED}” over these."

METRICS: dict[MetricName, Metric] = {
    "beta-vae": Metric(
        metrics.beta_vae_score, (Quantity("BetaVAE score", "score", chance="1/K"),), alone=False
    ),
    "factor-vae": Metric(metrics.factor_vae_score, (Quantity("FactorVAE score", "score", chance="1/K"),)),
    "mig": Metric(metrics.mig_score, (Quantity("MIG", "score"),), sampled=True, draws=DRAWS),
    "dci": Metric(
        metrics.dci_scores,
        (
            Quantity("DCI disentanglement", "disentanglement"),
            Quantity("DCI completeness", "completeness"),
            Quantity("DCI informativeness", "informativeness", chance="guessing"),
        ),
        takes=("jobs", "num_train", "num_test"),
        alone=False,
    ),
    "sap": Metric(metrics.sap_score, (Quantity("SAP", "score", perfect="below 1"),)),
    "modularity": Metric(
        metrics.modularity_score,
        (Quantity("Modularity", "score", chance="not 0"),),
        sampled=True,
        draws=DRAWS,
    ),
    "explicitness": Metric(
        metrics.explicitness_score, (Quantity("Explicitness", "score", chance="0.5"),), alone=False
    ),
    "irs": Metric(metrics.irs_score, (Quantity("IRS", "score", chance="not 0"),), draws=DRAWS),
    "unsupervised": Metric(
        metrics.unsupervised_scores,
        (
            Quantity("Gaussian total correlation, nats", "gaussian_total_correlation", "0", "–"),
            Quantity("Wasserstein correlation", "gaussian_wasserstein_correlation_normalised", "0", "–"),
            Quantity("Mutual information of latents, nats", "mutual_information_score", "0", "–"),
        ),
        needs_factors=False,
        draws=DRAWS,
        least_used=2,
    ),
}


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores."""

    label: str
    codes: str  # "mean" or "sampled"
    value: Estimate  # over all channels
    in_use: Estimate | str  # over the channels in use, or the reason why there is none
    perfect: str
    chance: str


def score_rows(scores: Iterable[Scored], num_factors: int, num_used: int) -> list[ScoreRow]:
    """The table rows of all ``scores``, for ``num_factors`` factors that vary and ``num_used`` channels in use."""
    guess = f"{1 / max(num_factors, 1):.2f}"
    return [
        ScoreRow(
            quantity.label,
            scored.codes,
            scored.values[quantity.attribute],
            _missing(METRICS[scored.metric], num_used)
            if scored.in_use is None
            else scored.in_use[quantity.attribute],
            quantity.perfect,
            quantity.chance.replace("1/K", guess),
        )
        for scored in scores
        for quantity in METRICS[scored.metric].quantities
    ]


def score(
    encoding: Encoding,
    factors: Factors | None,
    names: Iterable[MetricName],
    used: Sequence[int],
    *,
    seed: int,
    jobs: int = 1,
    dci_rows: int = DCI_ROWS,
    on_metric: Callable[[str], object] = lambda name: None,
) -> Iterator[Scored]:
    """Compute the metrics with these names, in the order of ``METRICS``.

    Each has a random generator of its own, so that its result does not depend on the other metrics chosen. The channels
    in use are scored on the same rows as all channels.

    Args:
        factors: (N, K) integer classes of the N images; None leaves out the metrics that need them.
        used: the channels in use, which are scored alone as well.
        jobs: number of processes for DCI's classifiers; the results do not depend on it.
        dci_rows: number of rows that DCI's classifiers learn from; half as many measure them.
        on_metric: called with a metric's name before it is computed.
    Raises: the metrics' errors.
    """
    wanted = {name for name in names if factors is not None or not METRICS[name].needs_factors}
    offered = {"jobs": jobs, "num_train": dci_rows, "num_test": -(-dci_rows // 2)}
    codes: dict[str, Codes] = {"mean": encoding.mean_codes}
    if any(METRICS[name].sampled for name in wanted):
        codes["sampled"] = encoding.sampled_codes(seed)
    for stream, (name, metric) in enumerate(METRICS.items()):
        if name not in wanted:
            continue
        needed = [factors] if metric.needs_factors else []
        options = {option: offered[option] for option in metric.takes}
        for kind in ("mean", "sampled") if metric.sampled else ("mean",):
            on_metric(name)
            start = perf_counter()
            everything = codes[kind]
            results = _draws(metric, everything, needed, options, [seed, stream])
            values, in_use = _estimates(metric, results), None
            if len(used) >= metric.least_used:
                if len(used) == everything.shape[1]:
                    in_use = values
                elif metric.alone:
                    kept = np.ascontiguousarray(everything[:, used])
                    in_use = _estimates(metric, _draws(metric, kept, needed, options, [seed, stream]))
            yield Scored(name, kind, results[0], values, in_use, perf_counter() - start)


def about_in_use(rows: Iterable[ScoreRow]) -> str:
    """The sentences below a table of scores: why they are given over the channels in use, and why some are not."""
    missing = any(row.in_use == _NOT_COMPUTED for row in rows)
    return f"{_WHY_IN_USE} {_WHY_NOT_COMPUTED}" if missing else _WHY_IN_USE


def number(value: float | None) -> str:
    """Format ``value`` with three decimals, or as a word or a dash if it is no finite number."""
    if value is None:
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else "infinite" if value > 0 else "undefined"


def _draws(
    metric: Metric, codes: Codes, needed: list[Any], options: dict[str, int], seed: list[int]
) -> list[Any]:
    """The metric's results on ``metric.draws`` draws of rows. The first is that of a single draw with the same seed."""
    rng = np.random.default_rng(seed)
    return [metric.compute(codes, *needed, rng, **options) for _ in range(metric.draws)]


def _estimates(metric: Metric, results: Sequence[Any]) -> dict[str, Estimate]:
    """The mean and spread of each quantity over the results of several draws."""
    return {
        quantity.attribute: _estimate([float(getattr(result, quantity.attribute)) for result in results])
        for quantity in metric.quantities
    }


def _estimate(values: Sequence[float]) -> Estimate:
    spread = stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    return Estimate(fmean(values), spread)


def _missing(metric: Metric, num_used: int) -> str:
    """The reason why a metric has no score over the channels in use."""
    if num_used == 0:
        return "no channel in use"
    return "one channel in use" if num_used < metric.least_used else _NOT_COMPUTED
