"""Operators: schemas, autograd and backends. Importing this package registers the operators with torch."""

from betavae_fast.ops import latent, likelihood, total_correlation

__all__ = ["latent", "likelihood", "total_correlation"]
