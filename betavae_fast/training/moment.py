"""Time as the device has it, which runs behind the program that gives it work."""

from __future__ import annotations

import time

import torch


class Moment:
    """The moment at which ``device`` has done what it was given so far, by when ``step`` steps are done.

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
        """The time between two moments of one device; on a GPU it waits for the later one."""
        if self._event is None or begun._event is None:
            return self._seconds - begun._seconds
        self._event.synchronize()
        return begun._event.elapsed_time(self._event) / 1000
