"""Says what a model has learned from a sample of its images, in seconds."""

from __future__ import annotations

import numpy as np

from betavae_fast.data import KnownFactors
from betavae_fast.evaluation.encoding import encode
from betavae_fast.evaluation.factor_table import factor_table
from betavae_fast.evaluation.learned import Learned, what_was_learned
from betavae_fast.evaluation.metrics import varying
from betavae_fast.evaluation.summary import Summary, choose_images
from betavae_fast.training.trained_run import TrainedRun

GLANCE_IMAGES = 10_000
"""The images of a glance.

A share estimated from them in 20 bins of the code and 40 classes of the factor is about 0.01 too large, and ``evaluate``
names channels from shares of 0.25.
"""


def glance(run: TrainedRun, summary: Summary) -> Learned | None:
    """Name each channel in use by the factor that it follows, as ``evaluate`` does, from 10,000 images at most.

    Args:
        summary: the run's summary (``report.write_summary``).
    Returns: None if the factors of the run's data are not known, or none of them varies among these images.
    Raises: the errors of ``run.images``.
    """
    dataset = run.images()
    chosen = choose_images(len(dataset), GLANCE_IMAGES)
    if not isinstance(dataset, KnownFactors) or len(varying(dataset.factors(chosen.cpu()).numpy())) == 0:
        return None
    codes = encode(run.model, dataset, chosen, precision=run.precision).mean_codes
    return what_was_learned(summary, factor_table(codes, dataset, np.random.default_rng(0), chosen))
