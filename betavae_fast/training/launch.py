"""The processes of one run, as their launcher (torchrun) describes them in environment variables. Loads no torch."""

from __future__ import annotations

import os

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def launched_processes() -> int:
    """The number of processes that the launcher started for this run; 1 without a launcher.

    Raises: ValueError if the variables contradict each other or are incomplete, as when WORLD_SIZE is left over from
        another program.
    """
    processes = _whole_number("WORLD_SIZE", 1)
    if processes > 1:
        if missing := [name for name in _NEEDED if not os.environ.get(name)]:
            raise ValueError(
                f"WORLD_SIZE is {processes}, but {', '.join(missing)} is not set: start the processes with torchrun, "
                "or unset WORLD_SIZE"
            )
        if not 0 <= _whole_number("RANK", 0) < processes:
            raise ValueError(f"RANK must lie in [0, WORLD_SIZE = {processes}), got {os.environ['RANK']}")
    elif processes < 1:
        raise ValueError(f"WORLD_SIZE must be at least 1, got {processes}")
    return processes


def launched_rank() -> int | None:
    """The number of this process in the run; None if it is the only one or the launcher's variables are unusable."""
    try:
        return int(os.environ["RANK"]) if launched_processes() > 1 else None
    except ValueError:
        return None


def local_rank() -> int:
    """The number of this process among the run's processes on this machine, from 0."""
    return _whole_number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """The number of the run's processes on this machine."""
    return _whole_number("LOCAL_WORLD_SIZE", 1)


def _whole_number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, got {text!r}") from None
