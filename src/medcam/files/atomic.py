"""Files that are whole or not there: a crash leaves no half of one and keeps the old one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from medcam.errors import SaveError

_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. \-]*[A-Za-z0-9_\-])?")
# Names that Windows keeps for devices.
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)")
_LONGEST = 120  # bytes: with an index and an ending it stays below the 255 of file systems
_KEPT = 80  # bytes of a changed name that stay readable before its hash

_FULL = "Free some space or choose another folder."
_FORBIDDEN = "Choose a folder that you may write to."
_NO_FOLDER = "A part of the path is a file, not a folder: choose another folder."
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
    """Gives a file that is complete, or leaves what was there before.

    The file is written beside its final place, flushed to the disk and moved over in one step. The
    temporary name keeps the last two suffixes, from which nibabel and others take the format.

    Args:
        path: Where the file shall be; missing parent folders are created.
        write: Called with the temporary path; creates that file.

    Returns:
        ``path``.

    Raises:
        SaveError: The system refused: no space, no permission, a folder of that name, a parent that
            is a file. ``errno`` is the system's. Any other exception of ``write`` passes through.
            Either way the temporary file is gone and an older file of that name is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_atomically(Path(folder, "new", "a.txt"), lambda p: p.touch())
        ...     [p.name for p in path.parent.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:])
    temporary = path.parent / f".{path.name[:16]}.{secrets.token_hex(6)}{ending}"
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
        with contextlib.suppress(OSError):  # after the move there is nothing left to remove
            temporary.unlink(missing_ok=True)
    return path


def safe_name(text: str) -> str:
    """Gives a single path component for the name of a layer, a case or a label.

    Names of ASCII letters, digits, ``_ - .`` and inner spaces stay as they are: every module name
    does. Of all others the readable part is kept and followed by ``~`` and a hash of the whole, so
    that different names stay different and none leads out of its folder.

    Example:
        >>> safe_name("encoder.stages.3")
        'encoder.stages.3'
        >>> safe_name("../secret")
        'secret~a6b096789d56'
    """
    if (
        _PLAIN.fullmatch(text)
        and ".." not in text
        and len(text) <= _LONGEST
        and not _RESERVED.match(text)
    ):
        return text
    readable = re.sub(r"\.{2,}", ".", re.sub(r"[^\w. \-]+", "_", text))
    readable = readable.encode()[:_KEPT].decode(errors="ignore").strip(" ._")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'unnamed'}~{digest}"
