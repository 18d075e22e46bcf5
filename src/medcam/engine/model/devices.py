"""Choose and validate a device; find the dtype that autocast computes in."""

from __future__ import annotations

import torch

from medcam.errors import InputError


def usable_device(
    device: torch.device | str | None, default: torch.device | None = None
) -> torch.device:
    """Return a device after allocating on it, so that errors show before a long computation.

    Args:
        device: The device; None is ``default``.
        default: The device if none is given; None is the GPU, or the CPU without a GPU.

    Raises:
        InputError: There is no such device, or this machine or this PyTorch has none.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return default or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        usable = torch.device(device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise InputError(
            f"device={str(device)!r} cannot be used: {reason}. "
            f"Available: {', '.join(['cpu', *gpus])}."
        ) from error
    return usable


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the dtype of autocast on a type of device, such as "cuda"; None if autocast is off."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
