"""Damaged files, made from sound ones in a reproducible way, and a process to read them in.

A reader may give an image or one of medcam's errors. Anything else (another exception, a dead or a
hanging process, memory beyond the limit) is a failure, with the seed that repeats it.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch.multiprocessing

NUMBERS = [b"-1", b"0", b"1000000", b"99999999999", b"1e400", b"nan", b"inf", b"", b"0x10", b"17"]
SECONDS = 30
MEGABYTES = 1500


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.5:  # the file inside the gzip file
        with contextlib.suppress(Exception):
            return gzip.compress(mutate(gzip.decompress(content), rng), 1)
    data = bytearray(content)
    head = min(len(data), 600)  # most of what a parser believes is at the beginning
    place = rng.randrange(head if rng.random() < 0.7 else len(data)) if data else 0
    kind = rng.randrange(10)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place : place + rng.randint(1, 8)] = rng.randbytes(rng.randint(1, 8))
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data += rng.randbytes(rng.choice([1, 16, 5000]))
    elif kind == 4:
        data[place : place + 40] = b"\0" * 40
    elif kind == 5:
        data[place:place] = data[place : place + rng.randint(1, 100)]
    elif kind == 6:
        del data[place : place + rng.randint(1, 100)]
    elif kind in (7, 8):
        return _with_another_number(bytes(data), rng)
    else:
        data[place : place + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
    return bytes(data)


def _with_another_number(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one number of its text replaced."""
    found = list(re.finditer(rb"-?\d+\.?\d*", content[:5000]))
    if not found:
        return content[: len(content) // 2]
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS) + content[match.end() :]


def failures_of(read, files: dict[str, bytes], folder: Path, seeds: range) -> list[str]:
    """Return what went wrong when mutations of files were read, each seed in turn.

    Args:
        read: Reads a path, and may raise one of medcam's errors; importable by name.
        files: The sound files by name; a name with ``#`` is written beside as given after it.
        folder: Where the mutations are written.
        seeds: One mutation for each; the file is chosen by the seed, too.
    """
    failures: list[str] = []
    context = torch.multiprocessing.get_context("spawn")
    next_seed = seeds.start
    while next_seed < seeds.stop:
        progress = context.Value("q", -1)
        queue = context.SimpleQueue()
        arguments = (read, files, folder, next_seed, seeds.stop, progress, queue)
        process = context.Process(target=_read_all, args=arguments)
        with _importable_tests():
            process.start()
        process.join()
        while not queue.empty():
            failures.append(queue.get())
        if process.exitcode == 0:
            break
        if progress.value < next_seed:
            return [*failures, f"a sound file fails: the process ended with {process.exitcode}"]
        failures.append(f"seed {progress.value}: the process ended with {process.exitcode}")
        next_seed = progress.value + 1
    return failures


@contextlib.contextmanager
def _importable_tests() -> Iterator[None]:
    """Let a new process find the module of ``read``, as pytest names it: ``tests.files.test_...``.

    Whether the root of the project is on the path depends on how pytest was started.
    """
    root = str(Path(__file__).parents[2])
    sys.path.append(root)
    try:
        yield
    finally:
        sys.path.remove(root)


def _read_all(read, files, folder, start, stop, progress, queue) -> None:
    import resource

    from medcam.errors import MedcamError

    warnings.simplefilter("ignore")
    _warm_up(read, files, folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _too_long)
    names = sorted(files)
    for seed in range(start, stop):
        progress.value = seed
        rng = random.Random(seed)  # noqa: S311  # not for secrets
        name = names[seed % len(names)]
        path = folder / f"{seed}-{name}"
        path.write_bytes(mutate(files[name], rng))
        signal.alarm(SECONDS)
        try:
            read(path)
        except MedcamError as error:
            if "\n" in str(error) or len(str(error)) > 1500:
                queue.put(f"seed {seed}, {name}: a long message: {str(error)[:300]!r}")
        except BaseException as error:  # noqa: BLE001  # this is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            queue.put(f"seed {seed}, {name}: {type(error).__name__}: {str(error)[:200]} {where}")
        finally:
            signal.alarm(0)
            path.unlink()


def _warm_up(read, files, folder) -> None:
    """Read each sound file once, so that imports do not count."""
    for name, content in files.items():
        path = folder / f"sound-{name}"
        path.write_bytes(content)
        read(path)


def _too_long(*_: object) -> None:
    raise TimeoutError
