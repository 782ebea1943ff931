"""The trainer's small data set, for objectives in the trainer."""

from tests.training.conftest import dataset

__all__ = ["dataset"]
