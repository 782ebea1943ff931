"""Which device a run uses."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is cuda where there is one, else cpu.

    Raises: ValueError for a name torch does not know or a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return resolved
