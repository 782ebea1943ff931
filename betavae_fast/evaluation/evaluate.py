"""Evaluates a trained model on a data set: summary, codes, factor table and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from betavae_fast.choices import MetricName
from betavae_fast.data import KnownFactors
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation import DEFAULT_METRICS
from betavae_fast.evaluation.encoding import Encoding, encode
from betavae_fast.evaluation.factor_table import FactorTable, factor_table
from betavae_fast.evaluation.findings import findings
from betavae_fast.evaluation.learned import Learned, what_was_learned
from betavae_fast.evaluation.metrics.table import check_codes
from betavae_fast.evaluation.scores import Scored, ScoreRow, score, score_rows
from betavae_fast.evaluation.summary import Summary, summarise
from betavae_fast.nn import BetaVAE


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of measuring one model. ``report.write`` makes evaluation.json from them."""

    dataset: ImageDataset  # the measured images
    seed: int
    summary: Summary
    encoding: Encoding
    table: FactorTable | None  # None if the data's factors are not known
    scores: list[Scored]
    seconds: dict[str, float]  # duration of each part, in seconds; those of the metrics are in ``scores``

    @property
    def findings(self) -> list[str]:
        """The results in sentences: the channels in use, what each has learned, and the reconstruction."""
        return findings(self.summary, self.learned)

    @property
    def learned(self) -> Learned:
        """The factor that each channel in use follows, and the factors that none follows."""
        return what_was_learned(self.summary, self.table)

    @property
    def kl_per_dim(self) -> NDArray[np.float64]:
        """The mean KL of each channel over the images of the summary, (D,), nats."""
        channels = sorted(self.summary.channels, key=lambda channel: channel.index)
        return np.array([channel.kl for channel in channels])

    @property
    def rows(self) -> list[ScoreRow]:
        """The rows of the table of scores."""
        factors = len(self.table.names) if self.table else 0
        return score_rows(self.scores, factors, self.summary.active_channels)


def evaluate(
    model: BetaVAE,
    dataset: ImageDataset,
    metrics: Iterable[MetricName] = DEFAULT_METRICS,
    *,
    seed: int = 0,
    jobs: int = 1,
    precision: torch.dtype = torch.float32,
    on_images: Callable[[int], object] = lambda count: None,
    on_metric: Callable[[str], object] = lambda name: None,
) -> Evaluation:
    """Encode all of ``dataset`` once and measure everything on the codes.

    Args:
        model: the model, in evaluation mode.
        metrics: the metrics to compute; those that need factors are left out if the factors are not known.
        seed: seed of the images that each metric draws, and of the sampled codes.
        jobs: number of processes for DCI's classifiers.
        on_images, on_metric: called after each batch and before each metric.
    Raises: ValueError for a metric that these data are too small for, or codes that are not finite.
    """
    seconds, start = {}, perf_counter()
    summary = summarise(model, dataset)
    seconds["summary"] = perf_counter() - start
    start = perf_counter()
    encoding = encode(model, dataset, precision=precision, on_images=on_images)
    seconds["encode"] = perf_counter() - start
    check_codes(encoding.mean_codes)
    start = perf_counter()
    table = None
    if isinstance(dataset, KnownFactors):
        table = factor_table(encoding.mean_codes, dataset, np.random.default_rng(seed))
    seconds["factor table"] = perf_counter() - start
    classes = table.classes if table else None
    used = sorted(channel.index for channel in summary.used)
    scores = list(score(encoding, classes, metrics, used, seed=seed, jobs=jobs, on_metric=on_metric))
    return Evaluation(dataset, seed, summary, encoding, table, scores, seconds)
