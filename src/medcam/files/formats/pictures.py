"""PNG, JPEG, TIFF and BMP pictures and stacks of them, read with Pillow without losing bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, foreign_errors, warn
from medcam.files.atomic import write_atomically
from medcam.files.image import Image, to_channels
from medcam.files.memory import require_memory

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_DAMAGED = "Is it cut off, damaged or of another kind?"
_GREY = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# Numbers of TIFF tags, and their values.
_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES = 258, 262, 270, 274, 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2


def read_picture(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Read a picture ``[channels, H, W]``, or a stack ``[channels, pages, H, W]``.

    See `medcam.files.read_image`. An EXIF orientation is not applied; there is a warning if the
    file has one. Palette indices become colours. An opaque alpha channel is dropped.

    Raises:
        InputError: The file has another format or is damaged; its colour space is not grey or RGB;
            it is transparent; its pages differ in shape; it has colours of more than 8 bits, or
            more than 8 bits with 0 as white; or it is a TIFF with an orientation.
    """
    with foreign_errors(f"'{path}' cannot be read as PNG, JPEG, TIFF or BMP", _DAMAGED):
        _verify_checksums(path)
        with path.open("rb") as stream, _opened(stream) as picture:
            description = str(getattr(picture, "tag_v2", {}).get(_DESCRIPTION, ""))
            count = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
            _check_memory(picture, path, 1 if volume is not None else count)
            pages = _read_pages(picture, path, count, volume)
    values = np.stack(pages)
    if volume is not None and as_channels is not True and len(pages) < count:
        volume = 0  # only the requested page was read, so it is the first of `values`
    if as_channels is False and volume is None and len(pages) > 1:
        _check_slices(description, path)
        return Image(np.moveaxis(values, 0, 1), paths=(path,))
    axis = "pages (as_channels=False: they are slices)"
    array = to_channels(values, volume=volume, as_channels=as_channels, path=path, axis=axis)
    return Image(array, paths=(path,))


def save_tiff(path: Path, values: NDArray[np.float32]) -> Path:
    """Write the raw values of a float32 map, ``[H, W]`` or ``[pages, H, W]``, as TIFF.

    Raises:
        SaveError: The file could not be written.
    """
    from PIL import Image as Pillow

    arrays = values if values.ndim == 3 else values[None]
    pages = [Pillow.fromarray(np.ascontiguousarray(page)) for page in arrays]

    def write(temporary: Path) -> None:
        pages[0].save(temporary, format="TIFF", save_all=True, append_images=pages[1:])

    return write_atomically(path, write)


def _opened(stream: BinaryIO) -> Any:
    """Return Pillow's picture; the format is decided by the content."""
    from PIL import Image as Pillow

    return Pillow.open(stream, formats=["PNG", "JPEG", "TIFF", "BMP"])


def _verify_checksums(path: Path) -> None:
    """Raise if a checksum of a PNG is wrong; loading does not compare them."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with path.open("rb") as stream:
        try:
            with Pillow.open(stream, formats=["PNG"]) as picture:
                picture.verify()
        except UnidentifiedImageError:
            pass  # not a PNG: no checksums


def _check_memory(picture: Any, path: Path, count: int) -> None:
    """Raise if the pages need more memory than there is."""
    width, height = picture.size
    require_memory(count * width * height * len(picture.getbands()) * 4, f"'{path}'")


def _read_pages(picture: Any, path: Path, count: int, volume: int | None) -> list[NDArray[Any]]:
    """Return the pages, ``[colours, H, W]`` each; of a TIFF only page ``volume`` if it exists."""
    indices = range(count)
    if count > 1 and isinstance(volume, int) and 0 <= volume < count:
        indices = range(volume, volume + 1)
    pages = []
    for index in indices:
        if count > 1:
            picture.seek(index)
        _check_bits(picture, path)
        _check_upright(picture, path)
        pages.append(_read_pixels(picture, path))
    if len({page.shape for page in pages}) > 1:
        sizes = sorted({f"{list(page.shape)}" for page in pages})
        raise InputError(
            f"The pages of '{path}' differ: {', '.join(sizes)} (channels, rows, columns). Take one "
            f"of them: volume=0 to {count - 1}."
        )
    return pages


def _read_pixels(picture: Any, path: Path) -> NDArray[Any]:
    """Return the current page, ``[colours, H, W]``."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("LA", "PA", "RGBA"):
        is_opaque = picture.getchannel("A").getextrema() == (255, 255)
        if not is_opaque:
            raise InputError(
                f"'{path}' is transparent in places, where its colour is not defined. Save it "
                "without an alpha channel."
            )
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    if picture.mode in _GREY:
        return _read_grey(picture, path)[None]
    if picture.mode != "RGB":
        raise InputError(
            f"'{path}' has the colour space {picture.mode}: only grey and RGB pictures can be "
            "read. Convert it first."
        )
    return np.moveaxis(np.array(picture), -1, 0)


def _read_grey(picture: Any, path: Path) -> NDArray[Any]:
    """Return a grey page, ``[H, W]``, in the dtype of the file."""
    tags = getattr(picture, "tag_v2", {})
    sample_format, bits = tags.get(_SAMPLES, (_UNSIGNED,))[0], tags.get(_BITS, (0,))[0]
    if bits > 8 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise InputError(
            f"'{path}' has {bits} bits per pixel and 0 as white (photometric WhiteIsZero), which "
            "is not supported. Save it with 0 as black."
        )
    pixels = np.array(picture)
    if picture.mode == "1":
        return pixels.astype(np.uint8)
    if picture.mode == "I" and sample_format == _UNSIGNED and bits == 32:
        return pixels.view(np.uint32)  # Pillow has no uint32 and reads the bits as int32
    if picture.mode == "L" and sample_format == _SIGNED:
        return pixels.view(np.int8)  # Pillow has no int8 and reads the bits as uint8
    return pixels


def _check_bits(picture: Any, path: Path) -> None:
    """Raise if colours have more than 8 bits: Pillow would silently drop the lower bits."""
    if picture.mode in _GREY:
        return
    if picture.format == "PNG":  # Pillow does not keep the bit depth of the IHDR chunk
        with path.open("rb") as stream:
            bits = stream.read(25)[24]
    else:
        bits = max(getattr(picture, "tag_v2", {}).get(_BITS, (8,)))
    if bits > 8:
        raise InputError(
            f"'{path}' has {bits} bits per colour, of which only 8 would be read. Save its "
            "channels as grey pictures, or as one .npy array."
        )


def _check_upright(picture: Any, path: Path) -> None:
    """Warn of an EXIF orientation; raise for a TIFF, because Pillow applies it to some of them."""
    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return
    if picture.format == "TIFF":
        raise InputError(
            f"'{path}' has an orientation tag, which only some programs apply. Save it upright, "
            "without the tag."
        )
    warn(
        f"'{path.name}' has an orientation tag: viewers rotate or flip it, but here its pixels are "
        "read as they are stored."
    )


def _check_slices(description: str, path: Path) -> None:
    """Raise if ImageJ's description of a stack counts its pages as channels or frames."""
    for axis in ("channels", "frames"):
        match = re.search(rf"^{axis}=(\d+)", description, re.MULTILINE)
        if description.startswith("ImageJ=") and match and int(match[1]) > 1:
            raise InputError(
                f"'{path}' says that its pages are {match[1]} {axis}, not slices: take one page "
                "(volume=0, ...), or all as channels (as_channels=True)."
            )
