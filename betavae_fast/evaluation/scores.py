"""The table of all metrics by name: their functions, the numbers to show, and the codes to apply them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from betavae_fast.choices import MetricName
from betavae_fast.evaluation import metrics
from betavae_fast.evaluation.encoding import Encoding
from betavae_fast.evaluation.metrics.table import Codes, Factors


class Figure(NamedTuple):
    """A number in a metric's result, with its values for perfect codes and for noise."""

    label: str
    attribute: str
    perfect: str = "1"
    chance: str = "0"


@dataclass(frozen=True)
class Metric:
    """A metric: its function ``compute`` of codes, factors and a generator, and the numbers to show of its result."""

    compute: Callable[..., Any]
    figures: tuple[Figure, ...]
    sampled: bool = False  # True if sampled codes are scored as well as mean codes
    needs_factors: bool = True


@dataclass(frozen=True)
class Scored:
    """One metric's result on one kind of codes."""

    metric: MetricName
    codes: str  # "mean" or "sampled"
    result: Any  # the metric's own dataclass
    seconds: float


METRICS: dict[MetricName, Metric] = {
    "beta-vae": Metric(metrics.beta_vae_score, (Figure("BetaVAE score", "score", chance="1/K"),)),
    "factor-vae": Metric(metrics.factor_vae_score, (Figure("FactorVAE score", "score", chance="1/K"),)),
    "mig": Metric(metrics.mig_score, (Figure("MIG", "score"),), sampled=True),
    "dci": Metric(
        metrics.dci_scores,
        (
            Figure("DCI disentanglement", "disentanglement"),
            Figure("DCI completeness", "completeness"),
            Figure("DCI informativeness", "informativeness", chance="guessing"),
        ),
    ),
    "sap": Metric(metrics.sap_score, (Figure("SAP", "score", perfect="below 1"),)),
    "modularity": Metric(
        metrics.modularity_score, (Figure("Modularity", "score", chance="not 0"),), sampled=True
    ),
    "explicitness": Metric(metrics.explicitness_score, (Figure("Explicitness", "score", chance="0.5"),)),
    "irs": Metric(metrics.irs_score, (Figure("IRS", "score", chance="not 0"),)),
    "unsupervised": Metric(
        lambda codes, factors, rng: metrics.unsupervised_scores(codes, rng),
        (
            Figure("Gaussian total correlation, nats", "gaussian_total_correlation", "0", "–"),
            Figure("Wasserstein correlation", "gaussian_wasserstein_correlation_normalised", "0", "–"),
            Figure("Mutual information of latents, nats", "mutual_information_score", "0", "–"),
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
            figure.label,
            scored.codes,
            float(getattr(scored.result, figure.attribute)),
            figure.perfect,
            figure.chance.replace("1/K", guess),
        )
        for scored in scores
        for figure in METRICS[scored.metric].figures
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
        compute = partial(metric.compute, jobs=jobs) if name == "dci" else metric.compute
        for kind in ("mean", "sampled") if metric.sampled else ("mean",):
            on_metric(name)
            start = perf_counter()
            result = compute(codes[kind], factors, np.random.default_rng([seed, number]))
            yield Scored(name, kind, result, perf_counter() - start)
