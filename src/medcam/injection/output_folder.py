"""The folder that a process writes its maps to, so that no process replaces another's maps.

One process alone writes to ``output_dir`` itself. Of several processes each has a folder of its own
in it, named after what tells them apart: the rank of distributed training (``rank_1``), the number
of a child process, as of a DataLoader's workers (``process_2``), or a number that is free
(``program_2``), if an independent program writes to the same folder at the same time. A program
that is run again later writes to the same folders, and replaces what it wrote the first time.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_IMPORTED = time.time()
_MAX_PROGRAMS = 10_000
_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


class OutputFolder:
    """A folder that this process alone writes to as long as the object lives.

    Args:
        base: ``output_dir``.

    Attributes:
        path: The folder.
        process: The number of the process that it belongs to.
    """

    def __init__(self, base: Path) -> None:
        self.process = os.getpid()
        own = base / process_name() if process_name() else base
        self.path, self._lock, self._mark = own, None, None
        for number in range(1, _MAX_PROGRAMS):
            path = own if number == 1 else own.with_name(f"{own.name}-{number}")
            if number > 1 and own == base:
                path = base / f"program_{number}"
            try:
                claimed = _claim(path)
            except OSError:  # no folder for locks: nothing is known of other processes
                return
            if claimed is not None:
                self.path, (self._lock, self._mark) = path, claimed
                return

    def touch(self) -> None:
        """Note that a file was written just now."""
        if self._mark is not None:
            with suppress(OSError):
                os.utime(self._mark)


_known: weakref.WeakValueDictionary[tuple[int, str], OutputFolder] = weakref.WeakValueDictionary()

_inherited: set[OutputFolder] = set()
"""Folders of the process that this one was forked from: a lock that is dropped here ends there."""
_mutex = threading.Lock()


def output_folder(base: Path) -> OutputFolder:
    """Return this process' folder in ``base``, the same object for all that keep it alive."""
    process = os.getpid()
    _inherited.update(folder for folder in _known.values() if folder.process != process)
    key = process, str(base.resolve())
    with _mutex:
        folder = _known.get(key)
        if folder is None:
            _known[key] = folder = OutputFolder(base)
        return folder


_thread = threading.local()
_numbers: dict[Path, dict[object, tuple[object, int]]] = {}
"""Of each folder and thread: who wrote there last, and the number of its call."""


def call_number(folders: Iterable[Path], writer: object, wanted: int) -> int:
    """Return the number of a call, beyond those that other models used in other threads.

    In one thread a model that is injected again begins at its own count, and replaces what was
    written before.

    Args:
        folders: Where the call's maps go.
        writer: Who asks: an object of the injected model.
        wanted: Its own count of its calls; it counts the calls of all threads.
    """
    thread = vars(_thread).setdefault("token", object())
    with _mutex:
        used = [_numbers.setdefault(folder, {}) for folder in folders]
        others = [
            last + 1
            for by_thread in used
            for of_thread, (who, last) in by_thread.items()
            if of_thread is not thread and who is not writer
        ]
        number = max([wanted, *others])
        for by_thread in used:
            by_thread[thread] = writer, number
    return number


def process_name() -> str:
    """Return the name that tells this process from others of its program; empty for the first.

    Example:
        >>> process_name()
        ''
    """
    parts, is_rank = [], False
    distributed: Any = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        rank, is_rank = distributed.get_rank(), True
        if distributed.get_world_size() > 1 and rank > 0:
            parts.append(f"rank_{rank}")
    else:
        for rank_of, count_of in _RANKS:
            number, count = os.environ.get(rank_of, ""), os.environ.get(count_of, "")
            if number.isdecimal() and count.isdecimal() and int(count) > 1 and int(number) > 0:
                parts.append(f"rank_{int(number)}")
                break
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if task.isdecimal():
        parts.append(f"task_{task}")
    identity = getattr(multiprocessing.current_process(), "_identity", ())
    is_worker = torch.utils.data.get_worker_info() is not None
    if identity and (is_worker or not is_rank):
        parts.append("process_" + "_".join(map(str, identity)))
    return "_".join(parts)


def _claim(path: Path) -> tuple[Any, Path] | None:
    """Lock a folder for this process; return None if another one writes or wrote to it.

    "Wrote" means since this process, or the one that started it, began: what is older is the
    result of a program that has ended, and may be replaced by its next run.

    Raises:
        OSError: Locks cannot be kept on this machine.
    """
    from filelock import FileLock, Timeout  # PyTorch needs it, too

    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    folder = _lock_folder()
    mark = folder / f"{name}.mark"
    try:
        writer, last = mark.read_text(encoding="ascii"), mark.stat().st_mtime
    except OSError:
        writer, last = "", 0.0
    if writer != str(os.getpid()) and last >= _started():
        return None
    lock = FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    mark.write_text(str(os.getpid()), encoding="ascii")
    return lock, mark


def _lock_folder() -> Path:
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
    return folder


def _started() -> float:
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
