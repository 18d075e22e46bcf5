"""Pictures and stacks of pictures: PNG, JPEG, TIFF and BMP, by Pillow, without losing a bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, warn
from medcam.files.atomic import write_atomically
from medcam.files.image import Image, one_volume

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_GREY = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# Tags of TIFF, and their values.
_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES = 258, 262, 270, 274, 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2


def read_picture(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Gives a picture ``[channels, H, W]``, or a stack ``[channels, pages, H, W]``.

    See :func:`medcam.files.read_image`. The pixels are those of the file, not turned by an EXIF
    orientation, with a warning if there is one. Palettes are looked up; an alpha channel that is
    opaque is left out.

    Raises:
        InputError: Not such a file, damaged, of a colour space other than grey and RGB, with
            transparency, of pages that differ, of more than 8 bits a colour, from white to black
            in more than 8 bits, or a TIFF with an orientation.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    unreadable = (OSError, ValueError, SyntaxError, EOFError, Pillow.DecompressionBombError)
    try:
        with Pillow.open(path, formats=["PNG"]) as picture:
            picture.verify()  # its checksums, which loading does not look at
    except UnidentifiedImageError:
        pass  # another format
    except unreadable as error:
        raise _damaged(path, error) from error
    try:
        with Pillow.open(path, formats=["PNG", "JPEG", "TIFF", "BMP"]) as picture:
            described = str(getattr(picture, "tag_v2", {}).get(_DESCRIPTION, ""))
            count = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
            pages = _pages(picture, path, count, volume)
    except InputError:
        raise
    except unreadable as error:
        raise _damaged(path, error) from error
    values = np.stack(pages)
    if volume is not None and as_channels is not True and len(pages) < count:
        volume = 0  # the other pages were left in the file
    if as_channels is False and volume is None and len(pages) > 1:
        _check_slices(described, path)
        return Image(np.moveaxis(values, 0, 1), paths=(path,))
    axis = "pages (as_channels=False: they are slices)"
    array = one_volume(values, volume=volume, as_channels=as_channels, path=path, axis=axis)
    return Image(array, paths=(path,))


def save_tiff(path: Path, values: NDArray[np.float32]) -> Path:
    """Writes a float32 map ``[H, W]``, or ``[pages, H, W]``, with its raw values.

    Raises:
        SaveError: The file could not be written.
    """
    from PIL import Image as Pillow

    pages = [Pillow.fromarray(np.ascontiguousarray(page)) for page in
             (values if values.ndim == 3 else values[None])]  # fmt: skip

    def write(temporary: Path) -> None:
        pages[0].save(temporary, format="TIFF", save_all=True, append_images=pages[1:])

    return write_atomically(path, write)


def _damaged(path: Path, error: BaseException) -> InputError:
    known = "PNG, JPEG, TIFF or BMP"
    reason = str(error).replace(str(path), path.name) or type(error).__name__
    return InputError(
        f"'{path}' cannot be read as {known}: {reason}. Is it cut off, damaged or of another kind?"
    )


def _pages(picture: Any, path: Path, count: int, volume: int | None) -> list[NDArray[Any]]:
    """The pages, ``[colours, H, W]`` each; only the one asked for, if that is one of a TIFF's."""
    wanted = range(count)
    if count > 1 and isinstance(volume, int) and 0 <= volume < count:
        wanted = range(volume, volume + 1)
    pages = []
    for index in wanted:
        if count > 1:
            picture.seek(index)
        _check_bits(picture, path)
        _check_upright(picture, path)
        pages.append(_pixels(picture, path))
    if len({page.shape for page in pages}) > 1:
        sizes = sorted({f"{list(page.shape)}" for page in pages})
        raise InputError(
            f"The pages of '{path}' differ: {', '.join(sizes)} (channels, rows, columns). Take one "
            f"of them: volume=0 to {count - 1}."
        )
    return pages


def _pixels(picture: Any, path: Path) -> NDArray[Any]:
    """One page, ``[colours, H, W]``."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("LA", "PA", "RGBA"):
        opaque = picture.getchannel("A").getextrema() == (255, 255)
        if not opaque:
            raise InputError(
                f"'{path}' is transparent in places: what lies behind is not known. Save it "
                "without an alpha channel."
            )
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    if picture.mode in _GREY:
        return _grey(picture, path)[None]
    if picture.mode != "RGB":
        raise InputError(
            f"'{path}' is of the colour space {picture.mode}: pictures are read if they are grey "
            "or RGB. Convert it first."
        )
    return np.moveaxis(np.array(picture), -1, 0)


def _grey(picture: Any, path: Path) -> NDArray[Any]:
    """One grey page, of the type that the file has."""
    tags = getattr(picture, "tag_v2", {})
    kind, bits = tags.get(_SAMPLES, (_UNSIGNED,))[0], tags.get(_BITS, (0,))[0]
    if bits > 8 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise InputError(
            f"'{path}' counts {bits} bits from white (0) to black: save it from black to white."
        )
    pixels = np.array(picture)
    if picture.mode == "1":
        return pixels.astype(np.uint8)
    if picture.mode == "I" and kind == _UNSIGNED and bits == 32:
        return pixels.view(np.uint32)  # Pillow has no such type
    if picture.mode == "L" and kind == _SIGNED:
        return pixels.view(np.int8)  # nor this one
    return pixels


def _check_bits(picture: Any, path: Path) -> None:
    """Refuses colours of more than 8 bits, of which Pillow would drop the lower ones silently."""
    if picture.mode in _GREY:
        return
    if picture.format == "PNG":
        with path.open("rb") as stream:
            bits = stream.read(25)[24]
    else:
        bits = max(getattr(picture, "tag_v2", {}).get(_BITS, (8,)))
    if bits > 8:
        raise InputError(
            f"'{path}' has {bits} bits a colour, of which 8 would be read. Save its channels as "
            "grey pictures, or as one .npy array."
        )


def _check_upright(picture: Any, path: Path) -> None:
    """Warns of pictures that viewers turn; refuses TIFFs, of which Pillow turns some."""
    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return
    if picture.format == "TIFF":
        raise InputError(
            f"'{path}' has an orientation tag: which way up it is depends on the program. Save it "
            "upright, without the tag."
        )
    warn(
        f"'{path.name}' has an orientation tag: viewers turn it, here its pixels are taken as "
        "they are stored."
    )


def _check_slices(described: str, path: Path) -> None:
    """Refuses a stack whose own description says that its pages are no slices."""
    for what in ("channels", "frames"):
        found = re.search(rf"^{what}=(\d+)", described, re.MULTILINE)
        if described.startswith("ImageJ=") and found and int(found[1]) > 1:
            raise InputError(
                f"'{path}' says that its pages are {found[1]} {what}, not slices: take one page "
                "(volume=0, ...), or all as channels (as_channels=True)."
            )
