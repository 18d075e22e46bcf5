"""Creation of the folder that results are written to."""

from __future__ import annotations

from pathlib import Path

from medcam.errors import SaveError


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if they do not exist, and return its path.

    Raises:
        SaveError: It cannot be created, e.g. because a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise SaveError(
            f"Could not create the folder '{path}': {reason}. Choose another output folder."
        ) from error
    return path
