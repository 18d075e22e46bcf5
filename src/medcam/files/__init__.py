"""Writers: one file each, complete or not there, readable by every other program."""

from __future__ import annotations

from medcam.files.atomic import safe_name, write_atomically
from medcam.files.nifti import save_nifti
from medcam.files.png import save_png

__all__ = ["safe_name", "save_nifti", "save_png", "write_atomically"]
