"""The choices of options, and the threshold for an active channel.

Nothing heavy is imported, so that the command line can show the choices at once.
"""

from typing import Literal

Architecture = Literal["burgess", "locatello", "mlp"]
Likelihood = Literal["bernoulli", "gaussian", "laplace"]
LrSchedule = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Estimator = Literal["mss", "mws"]
BenchOp = Literal["latent", "bernoulli_nll", "gaussian_nll", "laplace_nll", "log_densities"]
BenchDtype = Literal["fp32", "bf16", "fp16", "fp64"]
TraversalRange = Literal["prior", "posterior"]
MetricName = Literal[
    "beta-vae", "factor-vae", "mig", "dci", "sap", "modularity", "explicitness", "irs", "unsupervised"
]
ObjectiveName = Literal[
    "beta",
    "capacity",
    "free-bits",
    "lagrangian",
    "geco",
    "beta-per-dim",
    "btcvae",
    "factorvae",
    "dipvae-i",
    "dipvae-ii",
]

OBJECTIVE_OPTIONS: dict[ObjectiveName, dict[str, str]] = {
    "beta": {"beta": "beta", "beta_warmup": "warmup", "beta_cycle": "cycle"},
    "capacity": {"capacity": "capacity", "capacity_steps": "steps", "capacity_weight": "gamma"},
    "free-bits": {"free_bits": "free_bits"},
    "lagrangian": {"kl_limit": "kl_limit", "multiplier_lr": "lr"},
    "geco": {
        "reconstruction_limit": "reconstruction_limit",
        "multiplier_lr": "lr",
        "constraint_decay": "decay",
    },
    "beta-per-dim": {"betas": "betas"},
    "btcvae": {
        "mi_weight": "alpha",
        "tc_weight": "beta",
        "dimension_wise_weight": "gamma",
        "tc_estimator": "estimator",
    },
    "factorvae": {"tc_weight": "gamma", "discriminator_lr": "lr"},
    "dipvae-i": {"off_diagonal_weight": "off_diagonal", "diagonal_weight": "diagonal"},
    "dipvae-ii": {"off_diagonal_weight": "off_diagonal", "diagonal_weight": "diagonal"},
}
"""The options of each objective, with the arguments of its class in ``betavae_fast.objectives`` that they set."""

NEEDED_OPTIONS: dict[ObjectiveName, str] = {
    "lagrangian": "kl_limit",
    "geco": "reconstruction_limit",
    "beta-per-dim": "betas",
}
"""The required option of each objective that has one."""

ACTIVE_NATS = 0.05
"""A channel is active when its KL, averaged over images, exceeds this many nats.

KLs are bimodal: unused channels stay in the optimizer's noise, around 0.01 nats in a default run, and used channels carry
more than one nat, so the exact threshold matters little. Burda et al. 2016 (arXiv:1509.00519) use a variance of the
posterior mean of 0.01, which is 0.005 nats of mean dispersion; a threshold in nats includes the channel's variance part.
"""
