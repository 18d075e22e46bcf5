"""Claims on paths, so that processes that write to one folder do not replace each other's files.

A claim is a lock that ends with the process, and a mark of the moment of the last writing. Both lie
in a folder of this user on this machine, not beside the results.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_IMPORTED = time.time()


class Claim:
    """A path that belongs to this process as long as the object lives.

    Args:
        lock: The lock.
        mark: The file whose time is that of the last writing.
    """

    def __init__(self, lock: Any, mark: Path) -> None:
        self._lock = lock
        self._mark = mark

    def touch(self) -> None:
        """Note that a file was written just now."""
        with suppress(OSError):
            os.utime(self._mark)

    def release(self) -> None:
        """Give the path back; others that began before now still leave it alone."""
        self.touch()
        self._lock.release()


def claim(path: Path, *, recent: bool = True) -> Claim | None:
    """Claim a path for this process; return None if another one writes or wrote to it.

    "Wrote" means since this process, or the one that started it, began: what is older is the
    result of a program that has ended, and may be replaced by its next run.

    Args:
        path: The path.
        recent: Whether another process that wrote to it, and has ended, counts as well.

    Raises:
        OSError: Locks cannot be kept on this machine.
    """
    from filelock import FileLock, Timeout  # PyTorch needs it, too

    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    folder = lock_folder()
    mark = folder / f"{name}.mark"
    lock = FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    try:
        writer, last = mark.read_text(encoding="ascii"), mark.stat().st_mtime
    except (OSError, ValueError):
        writer, last = "", 0.0
    if recent and writer != str(os.getpid()) and last >= started():
        lock.release()
        return None
    mark.write_text(str(os.getpid()), encoding="ascii")
    return Claim(lock, mark)


def lock_folder() -> Path:
    """Return the folder of this user's locks on this machine.

    Raises:
        OSError: It cannot be made, or belongs to somebody else.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"medcam-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if hasattr(os, "getuid") and (status.st_uid != user or folder.is_symlink()):
        raise PermissionError(f"'{folder}' belongs to somebody else")
    _remove_old(folder)
    return folder


@functools.cache
def _remove_old(folder: Path) -> None:
    """Remove locks and marks that nobody has used for weeks; once in a process."""
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _OLD:
                path.unlink()


_OLD = 30 * 24 * 3600  # seconds


def started() -> float:
    """Return when this process began, or the one that it is a child process of."""
    parent = multiprocessing.parent_process()
    numbers = [os.getpid()] if parent is None else [os.getpid(), parent.pid or 0]
    times = [_started_by_system(number) for number in numbers]
    return min([_IMPORTED, *[moment for moment in times if moment is not None]])


def _started_by_system(process: int) -> float | None:
    """Return when a process began, in seconds since 1970; None where the system does not tell."""
    try:
        fields = (
            Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
