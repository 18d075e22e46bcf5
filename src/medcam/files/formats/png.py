"""Writing of PNG pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcam.errors import InputError
from medcam.files.atomic import write_atomically

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray


def save_png(path: str | PathLike[str], rgb_uint8: NDArray[np.uint8]) -> Path:
    """Write a colour picture ``[H, W, 3]`` or a grey one ``[H, W]`` without changing its pixels.

    Args:
        path: The file, ending in ``.png``.
        rgb_uint8: The pixels, row by row from the top, 0 to 255.

    Raises:
        InputError: The pixels are not uint8, empty or of another shape, or the ending is another.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_png(Path(folder, "a.png"), np.zeros((4, 5, 3), np.uint8)).name
        'a.png'
    """
    from PIL import Image

    path = Path(path)
    pixels = np.asarray(rgb_uint8)
    if path.suffix.lower() != ".png":
        raise InputError(f"'{path}' does not end in '.png': pictures are saved as PNG.")
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not has_shape or pixels.size == 0:
        raise InputError(
            f"A picture is uint8 [H, W, 3] or [H, W], not {pixels.dtype} {list(pixels.shape)}. "
            "Use medcam.save to make one from a map."
        )
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
