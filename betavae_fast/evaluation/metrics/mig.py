"""The mutual information gap: is each factor in one latent only?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .moments import mean, top_two_gap
from .mutual_information import discretise, entropies, mutual_information_matrix
from .table import Codes, Factors, check_counts, checked, draw


@dataclass(frozen=True, eq=False)
class MIGScore:
    """The mean of the factors' ``gaps``, and the quantities they were computed from."""

    score: float
    gaps: NDArray[np.float64]  # (K,), in [0, 1]: normalised by the factor's entropy
    mutual_information: NDArray[np.float64]  # (D, K), nats
    entropies: NDArray[np.float64]  # (K,), nats


def mig_score(
    codes: Codes,
    factors: Factors,
    rng: np.random.Generator,
    *,
    num_train: int = 10_000,
    num_bins: int = 20,
) -> MIGScore:
    """The mutual information gap of Chen et al. 2018 (arXiv:1802.04942), section 4, for codes in equal-width bins.

    The gap of a factor is its largest mutual information with a latent minus the second largest, over the factor's
    entropy. With a single latent the second is 0.

    Perfect: 1 (if the bins resolve the factor). Chance: near 0, with a remaining bias of the estimate of about
    bins · classes / 2 ``num_train``; if the table is a random sample of N images, bins · classes / 2N is added. The
    score is exactly invariant to the order of latents, to their scaling by powers of two and, unless a value lies on the
    edge of a bin, to their sign.

    Args:
        codes: (N, D) floats.
        factors: (N, K) integer classes; constant columns are left out.
    Raises: TypeError or ValueError for arrays that do not fit, ValueError for counts below 1 or if a factor
        has a single value in the rows drawn.

    >>> rng = np.random.default_rng(0)
    >>> factors = np.argwhere(np.ones((4, 5)))  # a full grid
    >>> codes = np.column_stack([factors, np.zeros(20)])
    >>> result = mig_score(codes, factors, rng)
    >>> round(result.score, 2), result.mutual_information.round(2)
    (1.0, array([[1.39, 0.  ],
           [0.  , 1.61],
           [0.  , 0.  ]]))
    """
    factors = checked(codes, factors)
    check_counts(num_train=num_train, num_bins=num_bins)
    sample, classes = draw(codes, factors, num_train, rng)
    information = mutual_information_matrix(discretise(sample, num_bins), classes)
    uncertainty = entropies(classes)
    gaps = top_two_gap(information) / uncertainty
    return MIGScore(mean(gaps), gaps, information, uncertainty)
