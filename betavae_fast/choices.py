"""Words a user chooses among and the convention every table shares. No heavy imports, so that the command
line can show them at once."""

from typing import Literal

Architecture = Literal["burgess", "locatello", "mlp"]
Likelihood = Literal["bernoulli", "gaussian", "laplace"]

ACTIVE_NATS = 0.01
"""A channel is active when its KL, averaged over images, exceeds this many nats.

Burda et al. 2016 (arXiv:1509.00519) call a unit active when the variance of its posterior mean exceeds 0.01.
Counting the KL instead takes a channel's variance part into account as well; for a channel with σ near 1 the
two thresholds are a factor of two apart (½ · 0.01 nats).
"""
