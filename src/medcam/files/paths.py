"""Questions to the file system that have an answer for every path, also for impossible ones."""

from __future__ import annotations

from pathlib import Path

from medcam.errors import InputError


def is_file(path: Path) -> bool:
    r"""Return whether a path is that of a file; False for one too long, or with a zero byte.

    Example:
        >>> is_file(Path("a" * 5000)), is_file(Path("a\0b"))
        (False, False)
    """
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path is that of a folder; False for one too long, or with a zero byte."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_file(path: Path, what: str) -> Path:
    """Return the path of a file that exists.

    Args:
        path: The path.
        what: What the file is, as the subject of the error message, e.g. ``"The image"``.

    Raises:
        InputError: It is a folder, or does not exist.
    """
    if is_folder(path):
        raise InputError(f"{what} '{path}' is a folder: give a file.")
    if not is_file(path):
        shown = f"'{path}'" if len(str(path)) <= 300 else f"'{str(path)[:300]}...'"
        raise InputError(f"{what} {shown} does not exist.")
    return path
