"""The folder that results go to."""

from __future__ import annotations

from pathlib import Path

from medcam.errors import SaveError


def make_folder(path: Path) -> Path:
    """Creates a folder, with its parents, if it is not there.

    Raises:
        SaveError: It cannot be created, e.g. since a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(
            f"Could not create the folder '{path}': {error.strerror}. Choose another output_dir."
        ) from error
    return path
