"""The checks of the objectives' options."""

from __future__ import annotations

from math import inf, isfinite


def check_finite(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite."""
    if not isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite and at least 0."""
    if not 0 <= value < inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is finite and above 0."""
    if not 0 < value < inf:
        raise ValueError(f"{name} must be a finite positive number, got {value}")
