"""The memory of this machine, compared with what a file asks for before it is read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from medcam.errors import InputError

_GIB = 2**30


def available_bytes() -> int | None:
    """Return the bytes that a process can have at most here; None if the system does not tell.

    It is the physical memory, or the limit that was set for this process (``ulimit -v``).
    """
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [physical] if limit == resource.RLIM_INFINITY else [physical, limit]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # of a container; "max" is no number
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


def require_memory(needed: int, what: str) -> None:
    """Raise if something needs more memory than this machine has.

    Args:
        needed: Bytes.
        what: What needs them, as the subject of the message.

    Raises:
        InputError: It needs more than there is.

    Example:
        >>> require_memory(10**15, "'ct.nii.gz'")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medcam.errors.InputError: 'ct.nii.gz' needs 931322.6 GiB of memory, this machine has ...
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} needs {needed / _GIB:.1f} GiB of memory, this machine has "
            f"{available / _GIB:.1f}. If the file is not damaged, take a larger machine."
        )
