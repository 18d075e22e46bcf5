"""Atomic writes and safe file names: after a crash either the old or the new file is there."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from medcam.errors import SaveError

_SAFE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. \-]*[A-Za-z0-9_\-])?")
# Device names on Windows, which no file may have.
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]|con(?:in|out)\$)(?:[. ]|$)")
_MAX_LENGTH = 120  # bytes; with an index and an ending below the 255 that file systems allow
_MAX_READABLE = 80  # bytes of a changed name that are kept before its hash

_FULL = "Free some space or choose another folder."
_FORBIDDEN = "Choose a folder that you may write to."
_NO_FOLDER = "A part of the path is a file, not a folder: choose another folder."
# What the user can do, by the name of the system's error code.
_ADVICE = {
    "ENOSPC": _FULL,
    "EDQUOT": _FULL,
    "EACCES": _FORBIDDEN,
    "EPERM": _FORBIDDEN,
    "EROFS": _FORBIDDEN,
    "EISDIR": "A folder has this name: choose another file name.",
    "ENOTDIR": _NO_FOLDER,
    "EEXIST": _NO_FOLDER,
    "ENAMETOOLONG": "Choose a shorter name.",
}


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Write a file completely, or leave the old one unchanged.

    The data is written to a temporary file in the same folder, flushed to the disk, and renamed to
    ``path`` in one atomic step. The temporary name keeps the last two suffixes, because nibabel and
    other libraries choose the format by them.

    Args:
        path: The final path; missing parent folders are created.
        write: A function that creates the file; it is called with the temporary path.

    Returns:
        ``path``.

    Raises:
        SaveError: The operating system refused: no space, no permission, a folder of that name, or
            a parent that is a file. Its ``errno`` is the system's. Any other exception raised by
            ``write`` passes through. In both cases the temporary file is removed and an older file
            of that name is unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_atomically(Path(folder, "new", "a.txt"), lambda p: p.touch())
        ...     [p.name for p in path.parent.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:])
    if "\0" in str(path):
        raise SaveError(f"Could not save {str(path)!r}: a path cannot hold a zero byte.")
    sweep(path.parent)
    temporary = path.parent / f".{path.name[:16]}.{_owner()}-{secrets.token_hex(6)}{ending}"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except SaveError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        code = errno.errorcode.get(error.errno or 0, "")
        advice = _ADVICE.get(code, "Check the path and the disk.")
        failure = SaveError(f"Could not save '{path}': {reason}. {advice}")
        failure.errno = error.errno
        raise failure from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
    return path


def safe_name(text: str) -> str:
    """Return a valid file name for the name of a layer, a case or a label.

    Names of ASCII letters, digits, ``_ - .`` and inner spaces are returned unchanged; every module
    name is of this kind. Of any other name the readable part is kept and followed by ``~`` and a
    hash of the full name. So different names stay different, and no name leads out of its folder.

    Example:
        >>> safe_name("encoder.stages.3")
        'encoder.stages.3'
        >>> safe_name("../secret")
        'secret~a6b096789d56'
    """
    if (
        _SAFE.fullmatch(text)
        and ".." not in text
        and len(text) <= _MAX_LENGTH
        and not _RESERVED.match(text)
    ):
        return text
    readable = re.sub(r"\.{2,}", ".", re.sub(r"[^\w. \-]+", "_", text))
    readable = readable.encode()[:_MAX_READABLE].decode(errors="ignore").strip(" ._")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    if _RESERVED.match(readable):  # Windows looks at the part before the first dot only
        readable = f"_{readable}"
    return f"{readable or 'unnamed'}~{digest}"


def sweep(folder: Path) -> None:
    """Remove the temporary files that processes of this machine left in a folder when they died.

    Each folder is looked through once in a process.
    """
    if os.name != "posix" or str(folder) in _swept:
        return
    _swept.add(str(folder))
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and match["host"] == _host() and not _is_alive(int(match["process"])):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


_TEMPORARY = re.compile(
    r"\..{0,16}\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{12}(?:\..*)?", re.DOTALL
)
_swept: set[str] = set()


@functools.cache
def _host() -> str:
    """Return a number for this machine, or container: a folder may be shared by several."""
    space = ""
    with contextlib.suppress(OSError):  # containers may share a machine's name, not its processes
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _owner() -> str:
    """Return the part of a temporary file's name that says whose it is."""
    return f"{_host()}-{os.getpid()}"


def _is_alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no number of a process
        return True
    return True
