"""Measures what a trained model has learned, draws it, and encodes images with it: ``Encoder``.

The names below stand here because the command line shows them before anything that needs torch is imported. ``Encoder``
is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any, get_args

from betavae_fast.choices import MetricName

if TYPE_CHECKING:
    from betavae_fast.evaluation.encoding import Encoder as Encoder

ALL_METRICS: tuple[MetricName, ...] = get_args(MetricName)
DEFAULT_METRICS: tuple[MetricName, ...] = tuple(name for name in ALL_METRICS if name != "dci")
"""All metrics but DCI, whose trees take minutes on dSprites."""

DCI_ROWS = 10_000
"""The rows that DCI's classifiers learn from, as in published scores."""

FORMAT = 2
"""The format of evaluation.json. A sweep evaluates a run again whose file has another one."""

IMPORTANCE_IMAGES = 1000
"""The images that the importance-weighted bound is computed for, unless told otherwise."""

TRAVERSED_CHANNELS = 16  # the most that a traversal shows; more would be hard to read
TRAVERSAL_EXTENT = 3.0  # standard deviations to go in both directions
TRAVERSAL_COLUMNS = 11  # values of a channel in a traversal's picture


def __getattr__(name: str) -> Any:
    """Import ``Encoder``, and torch with it, when it is first used (PEP 562)."""
    if name == "Encoder":
        from betavae_fast.evaluation.encoding import Encoder

        return Encoder
    raise AttributeError(f"module 'betavae_fast.evaluation' has no attribute {name!r}")
