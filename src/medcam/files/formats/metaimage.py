"""The header of MetaImage files (``.mha``, ``.mhd``): read and checked here, not by ITK.

ITK's own parser takes memory for what a damaged header says, reads beyond its end and can end the
process. So it is given a header that was written anew from checked fields, without voxels, and is
asked for the geometry alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medcam.files.formats.raw_voxels import (
    MAX_HEADER,
    RawVoxels,
    header_lines,
    named_files,
    numbers_of,
    sizes_of,
)

_TYPES = {
    "MET_CHAR": "i1", "MET_ASCII_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2",
    "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_GEOMETRY = {
    "Offset": 1, "Position": 1, "Origin": 1, "ElementSpacing": 1, "ElementSize": 1,
    "TransformMatrix": 2, "Rotation": 2, "Orientation": 2,
}  # fmt: skip
"""The fields of the geometry: 1 for a number per axis, 2 for a matrix."""

_LAST = "ElementDataFile"
_MAX_COMPONENTS = 100_000


def read_metaimage_header(path: Path) -> tuple[str, RawVoxels, int | None]:
    """Return the geometry as a new header without voxels, where they are, and the components' axis.

    The axis is None where each voxel is one number.

    Raises:
        ValueError: The header is damaged or of another kind.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_HEADER)
    fields, end, rest = _fields(content)
    axes = sizes_of(fields.get("NDims", ""), 1, "NDims")[0]
    if axes > 4:
        raise ValueError(f"it has {axes} axes: an image has 2 or 3, or 4 with volumes")
    channels = sizes_of(fields.get("ElementNumberOfChannels", "1"), 1, "ElementNumberOfChannels")
    if channels[0] > _MAX_COMPONENTS:
        raise ValueError(f"it has {channels[0]} components per voxel")
    sizes = sizes_of(fields.get("DimSize", ""), axes, "DimSize")
    components = channels if channels != (1,) else ()
    kind = fields.get("ElementType", "").removesuffix("_ARRAY")
    if kind not in _TYPES:
        raise ValueError(f"its ElementType is {kind[:40]!r}")
    is_big = _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "F")))
    voxels = RawVoxels(
        (*components, *sizes),
        np.dtype(_TYPES[kind]).newbyteorder(">" if is_big else "<"),
        **_place(path, fields, end, rest),
    )
    return _new_header(fields, axes, sizes, channels[0]), voxels, 0 if components else None


def _fields(content: bytes) -> tuple[dict[str, str], int, list[str]]:
    """Return the fields, the end of the last one, which names the data, and the lines after it."""
    place = content.find(_LAST.encode())
    end = content.find(b"\n", place)
    if place < 0:
        raise ValueError("it has no header of a MetaImage, which ends in ElementDataFile")
    end = len(content) if end < 0 else end + 1
    fields = {}
    for line in header_lines(content[:end]):
        key, equals, value = line.partition("=")
        if equals:
            fields[key.strip()] = value.strip()
        elif line.strip():
            raise ValueError(f"a line of its header is no field: {line[:80]!r}")
    if fields.get("ObjectType", "Image") != "Image" or _LAST not in fields:
        raise ValueError(f"its ObjectType is {fields.get('ObjectType', '')[:40]!r}")
    return fields, end, header_lines(content[end:])


def _place(path: Path, fields: dict[str, str], end: int, rest: list[str]) -> dict[str, Any]:
    """Return where the voxels are, as arguments of `RawVoxels`."""
    is_compressed = _is_true(fields.get("CompressedData", "F"))
    is_text = not _is_true(fields.get("BinaryData", "T"))
    encoding = "gzip" if is_compressed else "text" if is_text else "raw"
    skipped = int(fields.get("HeaderSize", "0"))
    if skipped < -1 or (skipped == -1 and encoding != "raw"):
        raise ValueError(f"its HeaderSize is {skipped}")
    name = fields[_LAST]
    place: dict[str, Any] = {"encoding": encoding, "skipped_bytes": skipped}
    if name.upper() == "LOCAL":
        stored = _stored(fields, is_compressed)
        return {"files": (path,), "start": end, "stored_bytes": stored, **place}
    listed = [line.strip() for line in rest if line.strip()]
    files = named_files(path.parent, name, listed if name.upper().startswith("LIST") else None)
    if len(files) == 1 and skipped == 0:
        place["stored_bytes"] = _stored(fields, is_compressed)
    return {"files": files, **place}


def _stored(fields: dict[str, str], is_compressed: bool) -> int | None:
    """Return the length of the compressed voxels, if the header says it."""
    text = fields.get("CompressedDataSize")
    return int(text) if is_compressed and text else None


def _is_true(text: str) -> bool:
    """Return whether ITK takes a value for true."""
    return text[:1] in ("T", "t", "1")


def _new_header(fields: dict[str, str], axes: int, sizes: tuple[int, ...], channels: int) -> str:
    """Return a header of the same geometry, of checked fields only."""
    lines = ["ObjectType = Image", f"NDims = {axes}"]
    for name, power in _GEOMETRY.items():
        if name in fields:
            numbers = numbers_of(fields[name], axes**power, name)
            lines.append(f"{name} = {' '.join(map(repr, numbers))}")
    lines += [
        f"DimSize = {' '.join(map(str, sizes))}",
        f"ElementNumberOfChannels = {channels}",
        "ElementType = MET_UCHAR",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join(lines) + "\n"
