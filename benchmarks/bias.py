"""Measures the bias of the estimated parts of the KL on data whose parts are known: ``python -m benchmarks.bias``.

With data x ~ N(0, I) and posteriors N(A x, σ² I), the aggregated posterior is N(0, S), S = A Aᵀ + σ² I, and so
    I(x; z) = ½ log det(S / σ²)    TC = ½ (Σ_d log S_dd − log det S)    Σ_d KL = ½ Σ_d (S_dd − 1 − log S_dd)
S has unit variances, so the dimension-wise KL is 0, and the same correlation between all channels. These are the parts
for the distribution that the images are drawn from. The information in N images drawn from it is somewhat less, and mss
estimates that: its bias may be negative if exp(I) is not far below N.

Writes bias.json and bias.png into benchmarks/results/log-densities/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from benchmarks.arguments import at_least
from benchmarks.pages import markdown
from benchmarks.study import Run, Study, tidy
from betavae_fast.bench.results import Provenance
from betavae_fast.functional import KLDecomposition, kl_decomposition

DIM = 10
# Batch size -> number of batches drawn; the estimates from large batches vary little.
BATCHES = {64: 256, 256: 128, 1024: 64, 4096: 16, 16384: 4}
# The size of the data set is a weight in mss, and an additive constant in mws, which is subtracted here.
ESTIMATORS = (("mss", 100_000), ("mss", 1_000_000), ("mws", 1_000_000))
PARTS = KLDecomposition._fields
_LABELS = ("mutual information", "total correlation", "dimension-wise KL")
_COLOURS = {("mss", 100_000): "#8fc1e3", ("mss", 1_000_000): "#1f6fb4", ("mws", 1_000_000): "#e07b00"}


@dataclass(frozen=True)
class Posterior:
    """An aggregated posterior with ``correlation`` between any two channels and ``information`` nats about x."""

    correlation: float
    information: float

    @property
    def covariance(self) -> Tensor:
        rho = self.correlation
        return rho * torch.ones(DIM, DIM, dtype=torch.float64) + (1 - rho) * torch.eye(
            DIM, dtype=torch.float64
        )

    @property
    def logvar(self) -> float:
        """The log σ² that gives the mutual information."""
        return (float(torch.logdet(self.covariance)) - 2 * self.information) / DIM

    @property
    def truth(self) -> dict[str, float]:
        return dict(
            zip(PARTS, (self.information, -0.5 * float(torch.logdet(self.covariance)), 0.0), strict=True)
        )

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z, μ and log σ² of a batch of images."""
        spread = exp(self.logvar)
        mixing = torch.linalg.cholesky(self.covariance - spread * torch.eye(DIM, dtype=torch.float64)).float()
        mu = torch.randn(batch, DIM, generator=generator) @ mixing.t()
        z = mu + spread**0.5 * torch.randn(batch, DIM, generator=generator)
        return z, mu, torch.full_like(mu, self.logvar)


POSTERIORS = tuple(Posterior(rho, nats) for nats in (4.0, 10.0) for rho in (0.0, 0.5))


@dataclass(frozen=True)
class Bias:
    """The estimates of one part from batches of one size, in nats.

    Args:
        constant: offset of weighted sampling, whose weights sum to 1/N; it is not part of ``bias``.
        standard_deviation: standard deviation of one batch's estimate, √``repeats`` times that of ``bias``.
    """

    correlation: float
    information: float
    estimator: str
    dataset_size: int
    batch_size: int
    repeats: int
    part: str
    truth: float
    constant: float
    bias: float
    standard_deviation: float


@dataclass(frozen=True)
class BiasResults(Provenance):
    channels: int
    seed: int
    measurements: tuple[Bias, ...]


def estimate(posterior: Posterior, batch: int, repeats: int, seed: int) -> Iterator[Bias]:
    """Apply all estimators to the same batches."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[str, int], list[list[float]]] = {estimator: [] for estimator in ESTIMATORS}
    for _ in range(repeats):
        inputs = posterior.sample(batch, generator)
        for (name, dataset_size), estimates in found.items():
            parts = kl_decomposition(*inputs, dataset_size=dataset_size, estimator=name)  # type: ignore[arg-type]
            estimates.append([float(part) for part in parts])
    for (name, dataset_size), estimates in found.items():
        # log q is too low by log N, and the product of the marginals by log N for each channel.
        offset = log(dataset_size) if name == "mws" else 0.0
        constants = (offset, (DIM - 1) * offset, -DIM * offset)
        for i, (part, truth) in enumerate(posterior.truth.items()):
            values = np.array(estimates)[:, i] - constants[i]
            yield Bias(
                posterior.correlation,
                posterior.information,
                name,
                dataset_size,
                batch,
                repeats,
                part,
                round(truth, 4),
                round(constants[i], 4),
                round(float(values.mean()) - truth, 4),
                round(float(values.std(ddof=1)), 4),
            )


def draw(results: BiasResults) -> Figure:
    """Draw the bias with one batch's standard deviation around it: a row for each part, a column for each posterior."""
    figure = Figure(figsize=(12.5, 8.2), layout="constrained")
    figure.suptitle(
        f"Bias of the estimated parts of the KL, in nats, by batch size ({DIM} channels; shaded: one batch's "
        "standard deviation)"
    )
    axes = figure.subplots(len(PARTS), len(POSTERIORS), sharex=True, sharey="row", squeeze=False)
    for row, part in enumerate(PARTS):
        for column, posterior in enumerate(POSTERIORS):
            axis = axes[row, column]
            axis.axhline(0, color="#404040", linewidth=0.8)
            for name, dataset_size in ESTIMATORS:
                chosen = [
                    m
                    for m in results.measurements
                    if (m.part, m.estimator, m.dataset_size) == (part, name, dataset_size)
                    and (m.correlation, m.information) == (posterior.correlation, posterior.information)
                ]
                batches = [m.batch_size for m in chosen]
                bias = np.array([m.bias for m in chosen])
                spread = np.array([m.standard_deviation for m in chosen])
                colour = _COLOURS[name, dataset_size]
                size = f"N = 10$^{round(np.log10(dataset_size))}$"
                label = f"mss, {size}" if name == "mss" else "mws, less its multiple of log N"
                # The two curves of mss may coincide, so the lower one is drawn wide.
                width = 4.0 if (name, dataset_size) == ESTIMATORS[0] else 1.5
                axis.plot(
                    batches, bias, "o-", color=colour, linewidth=width, markersize=3 + width, label=label
                )
                axis.fill_between(batches, bias - spread, bias + spread, color=colour, alpha=0.2, linewidth=0)
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(list(BATCHES)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
            tidy(axis)
            if row == 0:
                true = posterior.truth
                axis.set_title(
                    f"information {true[PARTS[0]]:.0f} nats, TC {abs(true[PARTS[1]]):.2g} nats", fontsize=10
                )
            if row == len(PARTS) - 1:
                axis.set_xlabel("batch size")
            if column == 0:
                axis.set_ylabel(f"bias of {_LABELS[row]}")
    figure.align_ylabels(axes[:, 0])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def show(results: BiasResults) -> str:
    rows: dict[tuple[str, ...], list[str]] = {}
    for m in results.measurements:
        tc = abs(Posterior(m.correlation, m.information).truth["total_correlation"])
        key = (f"{tc:.2f}", f"{m.information:.0f}", m.estimator, f"{m.dataset_size:,}", str(m.batch_size))
        rows.setdefault(key, []).append(f"{m.bias:+.3f} ± {m.standard_deviation:.3f}")
    columns = ("TC:", "information:", "estimator", "N:", "batch:", *(f"{label}:" for label in _LABELS))
    table = markdown(columns, ((*key, *cells) for key, cells in rows.items()))
    return f"Bias ± standard deviation of one batch, nats:\n\n{table}"


def options(parser: argparse.ArgumentParser) -> None:
    least, most = min(BATCHES), max(BATCHES)
    parser.add_argument("--max-batch", type=at_least(least), default=most, help="leave out larger batches")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def measure(run: Run) -> Iterator[BiasResults]:
    with run.console.status("estimating"):
        measurements = tuple(
            bias
            for posterior in POSTERIORS
            for batch, repeats in BATCHES.items()
            if batch <= run.args.max_batch
            for bias in estimate(posterior, batch, repeats, run.args.seed)
        )
    yield BiasResults(**run.origin, channels=DIM, seed=run.args.seed, measurements=measurements)


STUDY = Study(
    "benchmarks.bias",
    __doc__,
    BiasResults,
    "log-densities/bias.json",
    measure,
    show,
    options,
    threads=False,
    partial=lambda args: args.max_batch < max(BATCHES),
    draw=lambda results: {"bias": draw(results)},
)
main = STUDY.main

if __name__ == "__main__":
    sys.exit(main())
