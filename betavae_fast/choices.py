"""Words a user chooses among and the convention every table shares. No heavy imports, so that the command
line can show them at once."""

from typing import Literal

Architecture = Literal["burgess", "locatello", "mlp"]
Likelihood = Literal["bernoulli", "gaussian", "laplace"]
LrSchedule = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]

ACTIVE_NATS = 0.05
"""A channel is active when its KL, averaged over images, exceeds this many nats.

KLs are bimodal: unused channels stay in the optimizer's noise, around 0.01 nats in a default run, and used
ones carry more than one nat, so where exactly the line runs matters little. Burda et al. 2016
(arXiv:1509.00519) draw theirs at a variance of the posterior mean of 0.01, which is 0.005 nats of mean
dispersion; counting nats takes the channel's variance part into account as well.
"""
