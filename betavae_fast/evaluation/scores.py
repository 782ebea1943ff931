"""The table of all metrics by name: their functions, the numbers to show, and the codes to apply them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from betavae_fast.choices import MetricName
from betavae_fast.evaluation import metrics
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

    ``compute`` takes codes, factors if it needs them, a generator, and ``jobs`` if its work is shared among processes.
    """

    compute: Callable[..., Any]
    quantities: tuple[Quantity, ...]
    sampled: bool = False  # True if sampled codes are scored as well as mean codes
    needs_factors: bool = True
    parallel: bool = False


@dataclass(frozen=True)
class Scored:
    """One metric's result on one kind of codes."""

    metric: MetricName
    codes: str  # "mean" or "sampled"
    result: Any  # the metric's own dataclass
    seconds: float


METRICS: dict[MetricName, Metric] = {
    "beta-vae": Metric(metrics.beta_vae_score, (Quantity("BetaVAE score", "score", chance="1/K"),)),
    "factor-vae": Metric(metrics.factor_vae_score, (Quantity("FactorVAE score", "score", chance="1/K"),)),
    "mig": Metric(metrics.mig_score, (Quantity("MIG", "score"),), sampled=True),
    "dci": Metric(
        metrics.dci_scores,
        (
            Quantity("DCI disentanglement", "disentanglement"),
            Quantity("DCI completeness", "completeness"),
            Quantity("DCI informativeness", "informativeness", chance="guessing"),
        ),
        parallel=True,
    ),
    "sap": Metric(metrics.sap_score, (Quantity("SAP", "score", perfect="below 1"),)),
    "modularity": Metric(
        metrics.modularity_score, (Quantity("Modularity", "score", chance="not 0"),), sampled=True
    ),
    "explicitness": Metric(metrics.explicitness_score, (Quantity("Explicitness", "score", chance="0.5"),)),
    "irs": Metric(metrics.irs_score, (Quantity("IRS", "score", chance="not 0"),)),
    "unsupervised": Metric(
        metrics.unsupervised_scores,
        (
            Quantity("Gaussian total correlation, nats", "gaussian_total_correlation", "0", "–"),
            Quantity("Wasserstein correlation", "gaussian_wasserstein_correlation_normalised", "0", "–"),
            Quantity("Mutual information of latents, nats", "mutual_information_score", "0", "–"),
        ),
        needs_factors=False,
    ),
}


class ScoreRow(NamedTuple):
    """A row of the table of scores."""

    label: str
    codes: str  # "mean" or "sampled"
    value: float
    perfect: str
    chance: str


def score_rows(scores: Iterable[Scored], num_factors: int) -> list[ScoreRow]:
    """The table rows of all ``scores``, for ``num_factors`` factors that vary."""
    guess = f"{1 / max(num_factors, 1):.2f}"
    return [
        ScoreRow(
            quantity.label,
            scored.codes,
            float(getattr(scored.result, quantity.attribute)),
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
    *,
    seed: int,
    jobs: int = 1,
    on_metric: Callable[[str], object] = lambda name: None,
) -> Iterator[Scored]:
    """Compute the metrics with these names, in the order of ``METRICS``.

    Each has a random generator of its own, so that its result does not depend on the other metrics chosen.

    Args:
        factors: (N, K) integer classes of the N images; None leaves out the metrics that need them.
        jobs: number of processes for DCI's classifiers; the results do not depend on it.
        on_metric: called with a metric's name before it is computed.
    Raises: the metrics' errors.
    """
    wanted = {name for name in names if factors is not None or not METRICS[name].needs_factors}
    codes: dict[str, Codes] = {"mean": encoding.mean_codes}
    if any(METRICS[name].sampled for name in wanted):
        codes["sampled"] = encoding.sampled_codes(seed)
    for number, (name, metric) in enumerate(METRICS.items()):
        if name not in wanted:
            continue
        needed = [factors] if metric.needs_factors else []
        options = {"jobs": jobs} if metric.parallel else {}
        for kind in ("mean", "sampled") if metric.sampled else ("mean",):
            on_metric(name)
            start = perf_counter()
            result = metric.compute(codes[kind], *needed, np.random.default_rng([seed, number]), **options)
            yield Scored(name, kind, result, perf_counter() - start)
