"""The small data set of the trainer's tests, for objectives in the trainer."""

from tests.training.conftest import dataset

__all__ = ["dataset"]
