"""Operators: schemas, autograd and backends. Importing this package registers the operators with torch."""

from betavae_fast.ops import bias_relu, convolution, latent, likelihood, log_densities

__all__ = ["bias_relu", "convolution", "latent", "likelihood", "log_densities"]
