"""Ctrl-C as a request to finish the step, save everything, and stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A flag that tells whether the user has asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Make the first SIGINT or SIGTERM in the block only set ``requested``; a second one acts as usual.

    Signal handlers belong to the main thread; elsewhere Python refuses to set them (ValueError).
    """
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        request.requested = True
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        restore()
