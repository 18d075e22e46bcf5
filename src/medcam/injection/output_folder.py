"""The folder that a process writes its maps to, so that no process replaces another's maps.

One process alone writes to ``output_dir`` itself. Of several processes each has a folder of its own
in it, named after what tells them apart: the rank of distributed training (``rank_1``), the number
of a child process, as of a DataLoader's workers (``process_2``), or a number that is free
(``program_2``), if an independent program writes to the same folder at the same time. A program
that is run again later writes to the same folders, and replaces what it wrote the first time.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
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
    key = process, str(base.resolve())
    with _mutex:
        _inherited.update(folder for folder in _known.values() if folder.process != process)
        folder = _known.get(key)
        if folder is None:
            _known[key] = folder = OutputFolder(base)
        return folder


class Writer:
    """Who saves maps: one injected model. It is compared by identity."""

    def __init__(self) -> None:
        self.weights: weakref.ref[Any] | None = None

    def of(self, model: torch.nn.Module | None) -> Writer:
        """Note whose maps these are: of the model's parameters, which all its injections share."""
        first = None if model is None else next(model.parameters(), model)
        self.weights = None if first is None else weakref.ref(first)
        return self

    def is_beside(self, other: Writer) -> bool:
        """Return whether another writer saves maps of another model that is still in use."""
        own, others = (None if w.weights is None else w.weights() for w in (self, other))
        return others is not None and own is not others


_thread = threading.local()
_written: dict[Path, dict[tuple[object, int], tuple[weakref.ref[Writer], int]]] = {}
"""Of each folder: by thread and writer, the writer and the number of its last call."""
_MAX_WRITERS = 256  # of a folder that are told apart


def call_number(
    folders: Iterable[Path], writer: Writer, wanted: int, fresh: Callable[[int], int]
) -> int:
    """Return the number of a call that no other model, nor another thread's, has used.

    In one thread a model that is injected again, in place of one that is gone or of itself, begins
    at 0, and replaces what was written before.

    Args:
        folders: Where the call's maps go.
        writer: Who asks.
        wanted: Its own number of the call.
        fresh: Returns a number of its own that is not below another one.
    """
    thread = vars(_thread).setdefault("token", object())
    folders = list(folders)
    with _mutex:
        highest = _highest_of_others(folders, thread, writer)
        if highest is not None and _may_be_garbage(folders, thread, writer):
            gc.collect()  # models that are gone, but for a reference to themselves
            highest = _highest_of_others(folders, thread, writer)
        number = wanted if highest is None or wanted > highest else fresh(highest + 1)
        for folder in folders:
            known = _written.setdefault(folder, {})
            known[thread, id(writer)] = weakref.ref(writer), number
            while len(known) > _MAX_WRITERS:
                known.pop(next(iter(known)))
        return number


def _highest_of_others(folders: Sequence[Path], thread: object, writer: Writer) -> int | None:
    """Return the highest number of other writers, of those that count."""
    numbers = []
    for folder in folders:
        for (of_thread, _), (reference, number) in _written.get(folder, {}).items():
            other = reference()
            if other is writer:
                continue
            in_another_thread = of_thread is not thread
            if in_another_thread or (other is not None and writer.is_beside(other)):
                numbers.append(number)
    return max(numbers, default=None)


def _may_be_garbage(folders: Sequence[Path], thread: object, writer: Writer) -> bool:
    """Return whether this is the writer's first call here, and a writer of this thread counts."""
    is_first = all((thread, id(writer)) not in _written.get(folder, {}) for folder in folders)
    return is_first and any(
        of_thread is thread for folder in folders for of_thread, _ in _written.get(folder, {})
    )


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
