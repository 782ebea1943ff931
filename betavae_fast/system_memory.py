"""The memory that is still available to this process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")


def available_memory() -> int:
    """Bytes of memory that this process can still use without swapping.

    The limits of its container and its own limit (``ulimit -v``) are taken into account.

    Raises: ValueError if the system does not tell.
    """
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        machine = int(meminfo["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError):
        try:  # not Linux: all memory of the machine
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            raise ValueError("this system does not tell how much memory it has") from None
    return min(machine, _container_memory(CGROUP) or machine, _address_space() or machine)


def fits(needed: int) -> bool:
    """Tell whether ``needed`` bytes of memory are available; True if the system does not tell its memory."""
    try:
        return needed <= available_memory()
    except ValueError:
        return True


def fits_shared_memory(needed: int) -> bool:
    """Tell whether ``needed`` bytes fit into the memory that processes can share, which containers often limit to 64 MB.

    True on systems whose shared memory has no file system of its own.
    """
    return not SHARED.is_dir() or needed <= shutil.disk_usage(SHARED).free


def check_fits(what: str, needed: int) -> None:
    """Refuse an allocation of ``needed`` bytes that does not fit; else the system would kill the process in mid-work.

    If the system does not tell its memory, nothing is refused.

    Raises: MemoryError, with the bytes needed and the bytes available.

    >>> check_fits("images.npz", 10**15)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    MemoryError: images.npz: needs 1000.0 TB of memory, ... are free
    """
    if not fits(needed):
        free = format_bytes(available_memory())
        raise MemoryError(f"{what}: needs {format_bytes(needed)} of memory, {free} are free")


def format_bytes(count: int) -> str:
    """``count`` bytes as text, in a suitable unit.

    >>> format_bytes(377_487_360), format_bytes(12)
    ('377.5 MB', '12 bytes')
    """
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} bytes"


def _container_memory(cgroup: Path) -> int | None:
    """Bytes that the control group (version 2) can still use; None if there is no group or no limit."""
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(1, int(limit) - int(used))


def _address_space() -> int | None:
    """Bytes of address space that ``ulimit -v`` leaves this process; None if there is no limit."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, AttributeError, OSError, ValueError):
        # Windows has no such limit, macOS no such file.
        return None
    return None if limit == resource.RLIM_INFINITY else max(1, limit - used)
