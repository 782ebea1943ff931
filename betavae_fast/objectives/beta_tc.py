"""The β-TCVAE: a weight of its own for each part of the KL."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from betavae_fast.functional.decomposition import KLDecomposition, kl_parts
from betavae_fast.objectives.interface import LossInputs, Objective, ObjectiveOutput
from betavae_fast.objectives.options import BetaTCOptions
from betavae_fast.objectives.schedules import geometric
from betavae_fast.ops.backends import Backend
from betavae_fast.processes import whole_batch


@dataclass(eq=False, repr=False)
class BetaTC(Objective, BetaTCOptions):
    """Reconstruction + α MI + β TC + γ Σ_d KL(q(z_d) ‖ p(z_d)) (Chen et al. 2018, arXiv:1802.04942, equation 4).

    :func:`betavae_fast.kl_decomposition` estimates the parts of the KL from the batch. They sum to the sampled KL,
    log q(z|x) − log p(z): with α = γ = 1 the total is reconstruction + KL + (β − 1) TC. Each accumulated part of a batch
    counts as a batch of its own; the shares of several processes count as one batch.

    The estimator "mws" (used in the published runs) weighs all posteriors alike, so that the mutual information is at
    most log B + log N and the total correlation contains (D − 1) log N, which has no gradient. "mss" has neither bound
    nor offset, but a total correlation estimated from a batch that is small compared with exp(information) can be driven
    below 0. See :func:`betavae_fast.kl_decomposition`.

    With ``start``, all three weights start at that multiple of their final values and fall to them together, as in
    :func:`betavae_fast.objectives.geometric`. With ``tc_start``, the total correlation has a further factor, which falls
    to 1 over ``tc_steps``. A batch of B tells at most log B nats of joint information, so that beyond it the estimated
    total correlation counts information that a new channel adds, and keeps the channel shut. A high weight therefore
    helps as long as the code carries few nats, and hinders later.

    Args:
        dataset_size: number of images N that batches are drawn from.
        backend: the backend that computes the decomposition.
    Logs: ``mutual_information``, ``total_correlation``, ``dimension_wise_kl``, in nats.
    Raises: ValueError for a number out of its range; the errors of ``kl_decomposition``.

    >>> import torch
    >>> mu = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])  # one channel tells the two images apart
    >>> d, logvar = torch.tensor([6.0, 4.0]), torch.full((2, 2), -9.0)
    >>> inputs = LossInputs(torch.tensor(10.0), d, mu, mu, logvar, torch.tensor(0))
    >>> round(float(BetaTC(dataset_size=2, estimator="mss")(inputs).metrics["mutual_information"]), 4)  # log 2
    0.6931
    """

    logged = KLDecomposition._fields

    dataset_size: int
    backend: Backend = field(default="auto", kw_only=True)

    def forward(self, inputs: LossInputs) -> ObjectiveOutput:
        parts = kl_parts(
            inputs.z,
            inputs.mu,
            inputs.logvar,
            dataset_size=self.dataset_size,
            estimator=self.estimator,
            group=whole_batch(),
            backend=self.backend,
        )
        weights = self._like((self.alpha, self.beta, self.gamma), parts.detach())
        if self.start is not None:
            factor = geometric(inputs.step, self.start, 1.0, self.hold, self.steps)
            of_tc = factor
            if self.tc_start is not None:
                of_tc = factor * geometric(inputs.step, self.tc_start, 1.0, self.hold, self.tc_steps)
            weights = weights * torch.stack((factor, of_tc, factor)).to(weights.dtype)
        total = inputs.reconstruction + torch.dot(parts, weights)
        return ObjectiveOutput(total, dict(zip(self.logged, parts.unbind(), strict=True)))
