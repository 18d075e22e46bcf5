"""Reading and writing of images and maps with their geometry; never resamples or draws them."""

from __future__ import annotations

from medcam.files.atomic import safe_name, write_atomically
from medcam.files.formats.nifti import save_nifti
from medcam.files.formats.png import save_png
from medcam.files.image import Image
from medcam.files.reading import read_image, stack_images
from medcam.files.record.contents import provenance
from medcam.files.record.sidecar import read_sidecar, write_sidecar
from medcam.files.saving import save_map

__all__ = [
    "Image",
    "provenance",
    "read_image",
    "read_sidecar",
    "safe_name",
    "save_map",
    "save_nifti",
    "save_png",
    "stack_images",
    "write_atomically",
    "write_sidecar",
]
