"""Whether the files of this package are whole: the original package has the same import name.

Its distribution is called `medcam`, this one `m3d-cam`, and both install into the folder `medcam`.
Whichever is installed later replaces files of the other, and uninstalling one removes them. pip
says nothing of it.
"""

from __future__ import annotations

import sys
import warnings
from importlib import metadata

from medcam.errors import MedcamWarning

_REPAIR = (
    "pip uninstall -y medcam && pip install --force-reinstall --no-deps m3d-cam  (or, in place of "
    "m3d-cam, the path that it was installed from)"
)

BROKEN = (
    "The files of this package were replaced or removed by the original package 'medcam', which "
    f"installs into the same folder. Run:  {_REPAIR}"
)


def warn_of_original() -> None:
    """Warn if the original package is installed beside this one."""
    try:
        version = metadata.version("medcam")
    except metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"The original package 'medcam' {version} is installed in the same folder as this one, "
        f"'m3d-cam': uninstalling either breaks the other. Run:  {_REPAIR}",
        MedcamWarning,
        stacklevel=3,
    )


def require_whole() -> None:
    """Raise if the original package has replaced or removed the files of this one.

    Raises:
        ImportError: It has; the message holds the command that repairs it.
    """
    if getattr(sys.modules["medcam"], "__version__", None) is None:
        raise ImportError(BROKEN)
