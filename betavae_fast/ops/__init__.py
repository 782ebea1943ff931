"""Operators: schemas, autograd and backends."""
