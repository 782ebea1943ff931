"""The choices of options, and the threshold for an active channel.

Nothing heavy is imported, so that the command line can show the choices at once.
"""

from typing import Literal

Architecture = Literal["burgess", "locatello", "mlp"]
Likelihood = Literal["bernoulli", "gaussian", "laplace"]
Initialization = Literal["torch", "glorot", "kaiming"]
LrSchedule = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Kept = Literal["latest", "best"]
Estimator = Literal["mss", "mws"]
BenchOp = Literal["latent", "bernoulli_nll", "gaussian_nll", "laplace_nll", "log_densities"]
BenchDtype = Literal["fp32", "bf16", "fp16", "fp64"]
TraversalRange = Literal["prior", "posterior"]
ExportFormat = Literal["onnx", "pt2", "hub"]
PixelType = Literal["float", "uint8"]
MetricName = Literal[
    "beta-vae", "factor-vae", "mig", "dci", "sap", "modularity", "explicitness", "irs", "unsupervised"
]
ACTIVE_NATS = 0.05
"""A channel is active when its KL, averaged over images, exceeds this many nats.

KLs are bimodal: unused channels stay in the optimizer's noise, around 0.01 nats in a default run, and used channels carry
more than one nat, so the exact threshold matters little. Burda et al. 2016 (arXiv:1509.00519) use a variance of the
posterior mean of 0.01, which is 0.005 nats of mean dispersion; a threshold in nats includes the channel's variance part.
"""
