"""The folder that a process writes its maps to, so that no process replaces another's maps.

One process alone writes to ``output_dir`` itself. Of several processes each has a folder of its own
in it, named after what tells them apart: the rank of distributed training (``rank_1``), the number
of a child process, as of a DataLoader's workers (``process_2``), or a number that is free
(``program_2``), if an independent program writes to the same folder at the same time. A program
that is run again later writes to the same folders, and replaces what it wrote the first time.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from medcam.files.claims import Claim, claim

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
        self.path = own
        self._claim: Claim | None = None
        for number in range(1, _MAX_PROGRAMS):
            path = own if number == 1 else own.with_name(f"{own.name}-{number}")
            if number > 1 and own == base:
                path = base / f"program_{number}"
            try:
                self._claim = claim(path)
            except OSError:  # no folder for locks: nothing is known of other processes
                return
            if self._claim is not None:
                self.path = path
                return

    def touch(self) -> None:
        """Note that a file was written just now."""
        if self._claim is not None:
            self._claim.touch()


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
