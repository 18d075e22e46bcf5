"""Optional packages, imported only inside the function that needs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from medcam._errors import MissingPackageError


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional package, or says exactly how to install it.

    Args:
        module: The module to import, e.g. ``"highdicom"``.
        extra: The extra of this distribution that installs it, e.g. ``"dicom"``.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"This needs {module!r}, which is not installed: run  pip install 'm3d-cam[{extra}]'"
        ) from error
