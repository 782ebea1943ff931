"""Time measured on the device. A GPU runs behind the program that queues its work."""

from __future__ import annotations

import time

import torch


class Moment:
    """The time at which ``device`` has finished the work queued so far, which is that of ``step`` steps.

    >>> begun = Moment(torch.device("cpu"), step=0)
    >>> Moment(torch.device("cpu"), step=1).seconds_since(begun) > 0
    True
    """

    def __init__(self, device: torch.device, step: int) -> None:
        self.step = step
        self._seconds = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds_since(self, begun: Moment) -> float:
        """The seconds between two moments of one device. On a GPU, this waits for the later moment."""
        if self._event is None or begun._event is None:
            return self._seconds - begun._seconds
        self._event.synchronize()
        return begun._event.elapsed_time(self._event) / 1000
