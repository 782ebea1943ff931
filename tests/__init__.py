"""The tests. How long they take depends on the machine; see PATIENCE."""

import os
from typing import NoReturn

PATIENCE = 1800
"""Seconds after which a process that a test waits for is given up, lest a run of the tests never end. The slowest takes a
minute or two on a quiet machine; how long any takes beside other work is no error."""


def leave_process_group() -> NoReturn:
    """End this process, a worker of a test, as soon as all workers are done.

    Python's finalization would take the interpreter from gloo's threads, which do not always survive that.
    """
    from torch import distributed

    distributed.barrier()
    os._exit(0)
