"""Evaluates a trained model on a data set: summary, codes, factor table and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from betavae_fast.choices import MetricName
from betavae_fast.data import KnownFactors
from betavae_fast.data.images import ImageDataset
from betavae_fast.evaluation import DCI_ROWS, DEFAULT_METRICS, IMPORTANCE_IMAGES
from betavae_fast.evaluation.encoding import Encoding, encode
from betavae_fast.evaluation.factor_table import FactorTable, factor_table
from betavae_fast.evaluation.findings import findings, of_held_out, of_importance
from betavae_fast.evaluation.importance import ImportanceBound, importance_weighted_bound
from betavae_fast.evaluation.learned import Learned, what_was_learned
from betavae_fast.evaluation.metrics.table import SingleValueError, check_codes
from betavae_fast.evaluation.scores import Scored, ScoreRow, score, score_rows
from betavae_fast.evaluation.summary import Summary, choose_among, choose_images, summarise
from betavae_fast.nn import BetaVAE
from betavae_fast.training.validation import HeldOut


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
    # The losses on the images that were never trained on, if there are any; ``summary`` is then of the others.
    held_out: Summary | None = None
    # The bound for each number of samples, on held-out images if there are any, else on the images measured.
    importance: list[ImportanceBound] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """The results in sentences: the channels in use, what each has learned, the reconstruction, and the held-out
        images."""
        return [*findings(self.summary, self.learned), *self.unseen]

    @property
    def unseen(self) -> list[str]:
        """The sentences about the held-out images, and about the importance-weighted bounds."""
        return [
            *([] if self.held_out is None else [of_held_out(self.summary, self.held_out)]),
            *(of_importance(bound, held_out=self.held_out is not None) for bound in self.importance),
        ]

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
    dci_rows: int = DCI_ROWS,
    images: int | None = None,
    precision: torch.dtype = torch.float32,
    trained_on: Tensor | None = None,
    held_out: HeldOut | None = None,
    importance_samples: Sequence[int] = (),
    importance_images: int = IMPORTANCE_IMAGES,
    on_images: Callable[[int], object] = lambda count: None,
    on_metric: Callable[[str], object] = lambda name: None,
    on_codes: Callable[[int], object] = lambda count: None,
) -> Evaluation:
    """Encode the images of ``dataset`` once and measure everything on the codes.

    The metrics are those of all images, held-out ones included, because they need every combination of factors.

    Args:
        model: the model, in evaluation mode.
        metrics: the metrics to compute; those that need factors are left out if the factors are not known.
        seed: seed of the images that each metric draws, and of the sampled codes.
        jobs: number of processes for DCI's classifiers.
        dci_rows: number of images that DCI's classifiers learn from; half as many measure them. Their time grows with it.
        images: number of images to encode, drawn at random but the same on every call; None: all. Scores of few images
            vary more with the draw.
        trained_on: indices of the images to measure the losses on (``TrainedRun.training_images``); None: all.
        held_out: images that were not trained on (``TrainedRun.held_out``), to measure the losses on as well.
        importance_samples: the numbers k of codes for ``importance_weighted_bound``. A bound with k = 5000 takes minutes.
        importance_images: the number of images for it, chosen among the held-out ones if there are any.
        on_images, on_metric: called after each batch and before each metric.
        on_codes: called with the number of codes that the bounds have just used.
    Raises: ValueError for a metric that these data are too small for, or codes that are not finite. It names a factor of
        which a metric has drawn a single class.
    """
    seconds, start = {}, perf_counter()
    summary = summarise(model, dataset, among=trained_on)
    unseen = None
    if held_out is not None:
        unseen = summarise(model, held_out.dataset, among=held_out.indices)
    seconds["summary"] = perf_counter() - start
    start = perf_counter()
    chosen = None
    if images is not None and images < len(dataset):
        chosen = choose_images(len(dataset), images).sort().values  # files are read in their order
    encoding = encode(model, dataset, chosen, precision=precision, on_images=on_images)
    seconds["encode"] = perf_counter() - start
    check_codes(encoding.mean_codes)
    start = perf_counter()
    table = None
    if isinstance(dataset, KnownFactors):
        table = factor_table(encoding.mean_codes, dataset, np.random.default_rng(seed), chosen)
    seconds["factor table"] = perf_counter() - start
    classes = table.classes if table else None
    used = sorted(channel.index for channel in summary.used)
    scored = score(
        encoding, classes, metrics, used, seed=seed, jobs=jobs, dci_rows=dci_rows, on_metric=on_metric
    )
    try:
        scores = list(scored)
    except SingleValueError as error:
        assert table is not None, "its factors were drawn"
        raise ValueError(
            f"{error.rows} rows are too few: factor {table.names[error.factor]!r} has a single value in the rows drawn"
        ) from error
    bounds = []
    if importance_samples:
        start = perf_counter()
        source, among = (dataset, trained_on) if held_out is None else held_out
        bounded = source.gather(choose_among(source, among, importance_images).to(source.device))
        for k in importance_samples:
            bounds.append(
                importance_weighted_bound(
                    model, bounded, k, seed=seed, precision=precision, on_codes=on_codes
                )
            )
        seconds["importance"] = perf_counter() - start
    return Evaluation(dataset, seed, summary, encoding, table, scores, seconds, unseen, bounds)
