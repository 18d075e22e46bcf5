"""Devices: which one is meant, whether it exists, and what autocast computes in there."""

from __future__ import annotations

import torch

from medcam.errors import InputError


def usable_device(
    device: torch.device | str | None, default: torch.device | None = None
) -> torch.device:
    """Return the device that is meant; None is the default, or else the GPU if there is one.

    Raises:
        InputError: There is no such device, or this machine or this PyTorch has none.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    if device is None:
        return default or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        here = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise InputError(
            f"device={str(device)!r} cannot be used: {reason}. "
            f"There is {', '.join(['cpu', *here])}."
        ) from error
    return found


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the dtype autocast computes in on a kind of device; None if autocast is off there."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
