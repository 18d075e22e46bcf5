"""The header of NRRD files (``.nrrd``, ``.nhdr``): read and checked here, not by ITK.

See `medcam.files.formats.metaimage` for the reason. The format's definition is that of the Teem
library, "Definition of NRRD File Format".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from medcam.files.formats.raw_voxels import (
    MAX_HEADER,
    RawVoxels,
    header_lines,
    named_files,
    sizes_of,
)

_INTEGERS = {"char": "i1", "short": "i2", "int": "i4", "long long": "i8", "longlong": "i8"}
_TYPES = {
    **_INTEGERS,
    **{f"signed {name}": code for name, code in _INTEGERS.items()},
    **{f"unsigned {name}": code.replace("i", "u") for name, code in _INTEGERS.items()},
    **{f"{name} int": code for name, code in _INTEGERS.items()},
    **{f"signed {name} int": code for name, code in _INTEGERS.items()},
    **{f"unsigned {name} int": code.replace("i", "u") for name, code in _INTEGERS.items()},
    **{f"{sign}int{bits}{end}": f"{'u' if sign else 'i'}{bits // 8}"
       for sign in ("", "u") for bits in (8, 16, 32, 64) for end in ("", "_t")},
    "uchar": "u1", "ushort": "u2", "uint": "u4", "ulonglong": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
_ENCODINGS = {
    "raw": "raw", "txt": "text", "text": "text", "ascii": "text", "hex": "hex", "gz": "gzip",
    "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2",
}  # fmt: skip
_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip",
          "centerings": "centers", "axismins": "axis mins", "axismaxs": "axis maxs"}  # fmt: skip
"""Other names of fields."""

_MAGIC = re.compile(rb"NRRD000[1-6]\r?\n")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_VECTOR = rf"none|\(\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\)"
_WORD = r"[A-Za-z0-9?*\-]+"
# What the fields of the geometry may hold; "n" stands for one item per axis.
_GEOMETRY = {
    "space": r"[A-Za-z0-9\-]+",
    "space dimension": r"[1-4]",
    "space directions": rf"(?:{_VECTOR})(?:\s+(?:{_VECTOR}))*",
    "space origin": _VECTOR,
    "spacings": rf"(?:{_NUMBER}|nan)(?:\s+(?:{_NUMBER}|nan))*",
    "axis mins": rf"(?:{_NUMBER}|nan)(?:\s+(?:{_NUMBER}|nan))*",
    "axis maxs": rf"(?:{_NUMBER}|nan)(?:\s+(?:{_NUMBER}|nan))*",
    "kinds": rf"{_WORD}(?:\s+{_WORD})*",
    "centers": rf"{_WORD}(?:\s+{_WORD})*",
}
_PER_AXIS = {"spacings", "axis mins", "axis maxs", "kinds", "centers"}
_DOMAIN = {"domain", "space", "time", "none", "???"}  # kinds of axes that are no components


def read_nrrd_header(path: Path) -> tuple[str, RawVoxels, int | None]:
    """Return the geometry as a new header without voxels, where they are, and the components' axis.

    The axis is None where each voxel is one number.

    Raises:
        ValueError: The header is damaged or of another kind.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_HEADER)
    if not _MAGIC.match(content):
        raise ValueError("it does not begin as an NRRD file")
    end = re.search(rb"\r?\n\r?\n", content)
    header = content if end is None else content[: end.start()]
    if end is None and len(content) == MAX_HEADER:
        raise ValueError("its header has no end")
    fields, listed = _fields(header)
    axes = sizes_of(fields.get("dimension", ""), 1, "dimension")[0]
    if axes > 5:
        raise ValueError(f"it has {axes} axes: an image has 2 or 3, more for volumes or colours")
    sizes = sizes_of(fields.get("sizes", ""), axes, "sizes")
    kind = fields.get("type", "").lower()
    if kind not in _TYPES:
        raise ValueError(f"its type is {kind[:40]!r}")
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise ValueError(f"its encoding is {fields.get('encoding', '')[:40]!r}")
    dtype = np.dtype(_TYPES[kind])
    endian = fields.get("endian", "").lower()
    if dtype.itemsize > 1 and encoding != "text" and endian not in ("little", "big"):
        raise ValueError(f"its endian is {endian[:40]!r}, neither little nor big")
    voxels = RawVoxels(
        sizes,
        dtype.newbyteorder(">" if endian == "big" else "<"),
        encoding=encoding,
        skipped_lines=int(fields.get("line skip", "0")),
        skipped_bytes=_byte_skip(fields, encoding),
        **_place(path, fields, listed, None if end is None else end.end()),
    )
    return _new_header(fields, sizes), voxels, _component_axis(fields)


def _fields(header: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the fields, and the names of files that follow after ``data file: LIST``."""
    fields: dict[str, str] = {}
    lines = iter(header_lines(header)[1:])
    for line in lines:
        if not line.strip() or line.startswith("#") or ":=" in line:
            continue
        name, colon, value = line.partition(": ")
        if not colon:
            raise ValueError(f"a line of its header is no field: {line[:80]!r}")
        name = _NAMES.get(name.strip().lower(), name.strip().lower())
        fields[name] = value.strip()
        if name == "data file" and fields[name].split()[:1] == ["LIST"]:
            return fields, [rest.strip() for rest in lines if rest.strip()]
    return fields, []


def _place(
    path: Path, fields: dict[str, str], listed: list[str], end: int | None
) -> dict[str, Any]:
    """Return the files of the voxels, as arguments of `RawVoxels`."""
    named = fields.get("data file")
    if named is None:
        if end is None:
            raise ValueError("no voxels follow after its header, and it names no file of them")
        return {"files": (path,), "start": end}
    return {"files": named_files(path.parent, named, listed or None)}


def _byte_skip(fields: dict[str, str], encoding: str) -> int:
    skipped = int(fields.get("byte skip", "0"))
    if skipped < -1 or (skipped == -1 and encoding != "raw"):
        raise ValueError(f"its byte skip is {skipped}")
    return skipped


def _component_axis(fields: dict[str, str]) -> int | None:
    """Return the axis of the components of a voxel: the one whose kind is not of space or time."""
    kinds = fields.get("kinds", "").lower().split()
    axes = [axis for axis, kind in enumerate(kinds) if kind not in _DOMAIN]
    if len(axes) > 1:
        raise ValueError(f"several of its axes are components of a voxel: {' '.join(kinds)}")
    return axes[0] if axes else None


def _new_header(fields: dict[str, str], sizes: tuple[int, ...]) -> str:
    """Return a header of the same geometry, of checked fields only."""
    lines = {
        name: f"{name}: {_checked(name, fields[name], len(sizes))}"
        for name in _GEOMETRY
        if name in fields
    }
    # the space comes before what depends on it
    space = [lines.pop(name) for name in ("space", "space dimension") if name in lines]
    begin = ["NRRD0005", "type: float", f"dimension: {len(sizes)}", *space]
    extents = f"sizes: {' '.join(map(str, sizes))}"
    end = ["encoding: raw", "endian: little", "", ""]
    return "\n".join([*begin, extents, *lines.values(), *end])


def _checked(name: str, value: str, axes: int) -> str:
    """Return the value of a field of the geometry, if it is well formed."""
    items = re.findall(_VECTOR, value) if name == "space directions" else value.split()
    is_complete = len(items) == axes or name not in {*_PER_AXIS, "space directions"}
    if len(value) > 4000 or not re.fullmatch(_GEOMETRY[name], value) or not is_complete:
        raise ValueError(f"its field {name!r} is {value[:80]!r}")
    return value
