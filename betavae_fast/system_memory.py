"""The memory that this process can still have."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes of memory that this process can still have without swapping, within its container's limit and its own
    (``ulimit -v``).

    Raises: ValueError where the system does not tell.
    """
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        machine = int(meminfo["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError):
        try:  # not Linux: what there is altogether
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            raise ValueError("this system does not tell how much memory it has") from None
    return min(machine, _container_memory(CGROUP) or machine, _address_space() or machine)


def check_fits(what: str, needed: int) -> None:
    """Refuse what does not fit before it is allocated: the system would end the process in the middle of the work.

    A system that does not tell its memory refuses nothing.

    Raises: MemoryError, with the bytes needed and those that are free.

    >>> check_fits("images.npz", 10**15)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    MemoryError: images.npz: needs 1000.0 TB of memory, ... are free
    """
    try:
        free = available_memory()
    except ValueError:
        return
    if needed > free:
        raise MemoryError(f"{what}: needs {format_bytes(needed)} of memory, {format_bytes(free)} are free")


def format_bytes(count: int) -> str:
    """``count`` in the unit that suits it.

    >>> format_bytes(377_487_360), format_bytes(12)
    ('377.5 MB', '12 bytes')
    """
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} bytes"


def _container_memory(cgroup: Path) -> int | None:
    """Bytes that the control group (version 2) can still have; None where there is none or it has no limit."""
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(1, int(limit) - int(used))


def _address_space() -> int | None:
    """Bytes of address space that ``ulimit -v`` leaves this process; None where there is no limit."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (
        ImportError,
        AttributeError,
        OSError,
        ValueError,
    ):  # Windows has no such limit, macOS no such file
        return None
    return None if limit == resource.RLIM_INFINITY else max(1, limit - used)
