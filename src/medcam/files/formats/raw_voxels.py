"""The voxels of NRRD and MetaImage files, read by what their header announces, and no further."""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.files.formats.streams import InflatingStream, PlainStream
from medcam.files.memory import require_memory

MAX_HEADER = 2**20
"""The bytes, at most, of a header; those of diffusion images have a line for each direction."""

_MAX_FILES = 100_000
_MAX_SKIPPED = 2**28  # bytes


@dataclass(frozen=True)
class RawVoxels:
    """Where the voxels are and how they are written.

    Attributes:
        sizes: The extents, the fastest axis first; components are an axis.
        dtype: The type of a number, in the file's byte order.
        files: The files that hold the voxels, one after the other.
        encoding: "raw", "gzip" (also zlib), "bzip2", "text" or "hex".
        skipped_lines: Lines before the voxels in each file.
        skipped_bytes: Bytes before the voxels in each file, of its inflated content; -1: all but
            the last ones that are needed.
        start: The byte at which the voxels begin in the one file that holds a header, too.
        stored_bytes: The bytes that are stored; None: all to the end of the file.
    """

    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    files: tuple[Path, ...]
    encoding: str = "raw"
    skipped_lines: int = 0
    skipped_bytes: int = 0
    start: int = 0
    stored_bytes: int | None = None

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return math.prod(self.sizes)

    def read(self) -> NDArray[Any]:
        """Return the numbers, ``[*sizes]``.

        Raises:
            ValueError: There are fewer or more bytes than announced, a checksum is wrong, or text
                is no numbers.
            OSError: A file cannot be read.
            InputError: They do not fit into the memory.
        """
        if not 1 <= len(self.files) <= _MAX_FILES or self.count % len(self.files):
            raise ValueError(f"{self.count} numbers are announced in {len(self.files)} files")
        require_memory(self.count * self.dtype.itemsize, f"'{self.files[0].name}'")
        per_file = self.count // len(self.files)
        parts = [self._read_file(path, per_file) for path in self.files]
        numbers = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return numbers.reshape(self.sizes[::-1]).transpose()

    def _read_file(self, path: Path, count: int) -> NDArray[Any]:
        """Return the numbers of one file."""
        needed = count * self.dtype.itemsize
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"'{path.name}' is no regular file")
        size, start = status.st_size, self.start
        if self.encoding == "raw" and not self.skipped_lines:
            if self.skipped_bytes == -1:
                start = max(size - needed, start)
            if size - start < needed:  # before the file is read
                raise ValueError(f"{needed} bytes are announced, and {size - start} are there")
        with path.open("rb") as stream:
            stream.seek(start)
            content = memoryview(stream.read())
        content = _without_lines(content, self.skipped_lines)
        if self.stored_bytes not in (None, len(content)):
            raise ValueError(
                f"{self.stored_bytes} compressed bytes are announced, and {len(content)} are there"
            )
        if self.encoding in ("text", "hex"):
            return self._from_text(bytes(content[max(self.skipped_bytes, 0) :]), count)
        is_plain = self.encoding == "raw"
        opened = PlainStream(content) if is_plain else InflatingStream(content, self.encoding)
        if self.skipped_bytes > 0:
            if self.skipped_bytes > _MAX_SKIPPED:
                raise ValueError(f"{self.skipped_bytes} bytes are to be skipped before its voxels")
            opened.take(self.skipped_bytes)
        values = np.frombuffer(opened.take(needed), self.dtype)
        opened.finish()
        return values

    def _from_text(self, content: bytes, count: int) -> NDArray[Any]:
        """Return numbers that are written as text."""
        if self.encoding == "hex":
            digits = bytes.fromhex(content.decode("ascii"))
            if len(digits) != count * self.dtype.itemsize:
                raise ValueError(
                    f"{count * self.dtype.itemsize} bytes are announced, and {len(digits)} are "
                    "there"
                )
            return np.frombuffer(digits, self.dtype)
        words = content.decode("ascii").replace(",", " ").split()
        if len(words) != count:
            raise ValueError(f"{count} numbers are announced, and {len(words)} are there")
        if self.dtype.kind == "f":
            return np.array([float(word) for word in words], self.dtype)
        numbers, limits = [int(word) for word in words], np.iinfo(self.dtype)
        if min(numbers) < limits.min or max(numbers) > limits.max:
            raise ValueError(f"its numbers are beyond those of {self.dtype}")
        return np.array(numbers, self.dtype)


def named_files(folder: Path, name: str, listed: Sequence[str] | None) -> tuple[Path, ...]:
    """Return the files that a header names: a list, a pattern with numbers, or one file.

    Args:
        folder: The header's.
        name: What the header names.
        listed: The names that follow; None if it announces no list.

    Raises:
        ValueError: A pattern is none, or names too many files.
    """
    if listed is not None:
        return tuple(folder / line for line in listed)
    if "%" in name and len(name.split()) > 2:
        return listed_files(folder, name)
    return (folder / name,)


def listed_files(folder: Path, pattern: str) -> tuple[Path, ...]:
    """Return the files that ``"slice%03d.raw 1 20 1"`` names.

    Raises:
        ValueError: It is no pattern with a number, or names too many files.

    Example:
        >>> [path.name for path in listed_files(Path("."), "s%02d.raw 1 5 2")]
        ['s01.raw', 's03.raw', 's05.raw']
    """
    name, *numbers = pattern.split()
    first, last, step = (int(number) for number in [*numbers, "1"][:3])
    indices = range(first, last + (1 if step > 0 else -1), step)
    if len(indices) > _MAX_FILES:
        raise ValueError(f"it names {len(indices)} files")
    before, percent, after = name.partition("%")
    digits, letter, after = after.partition("d")
    if not percent or not letter or "%" in after or not (digits or "0").isdigit():
        raise ValueError(f"{name!r} is not the pattern of files' names")
    if int(digits or 0) > 20:
        raise ValueError(f"{name!r} is not the pattern of files' names")
    return tuple(folder / f"{before}{index:{digits}d}{after}" for index in indices)


def header_lines(content: bytes) -> list[str]:
    """Return the lines of a header; each is printable text of one byte a letter."""
    return content.decode("latin-1").replace("\r\n", "\n").split("\n")


def numbers_of(text: str, count: int, name: str) -> tuple[float, ...]:
    """Return the finite numbers of a field.

    Raises:
        ValueError: There is another number of them, or they are not finite.

    Example:
        >>> numbers_of("0.5 2", 2, "ElementSpacing")
        (0.5, 2.0)
    """
    numbers = tuple(float(word) for word in text.split())
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        wanted = "a finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"its field {name} is not {wanted}: {text[:80]!r}")
    return numbers


def sizes_of(text: str, count: int, name: str) -> tuple[int, ...]:
    """Return the extents of a field, each at least 1.

    Raises:
        ValueError: There is another number of them, or one is below 1.
    """
    words: Sequence[str] = text.split()
    if len(words) != count or not all(word.isdecimal() and 1 <= len(word) <= 12 for word in words):
        wanted = "a positive whole number" if count == 1 else f"{count} positive whole numbers"
        raise ValueError(f"its field {name} is not {wanted}: {text[:80]!r}")
    sizes = tuple(int(word) for word in words)
    if min(sizes) < 1:
        raise ValueError(f"its field {name} is 0 in a place: {text[:80]!r}")
    return sizes


def _without_lines(content: memoryview, count: int) -> memoryview:
    """Return the content after some lines."""
    if count <= 0:
        return content
    start, data = 0, bytes(content)
    for _ in range(count):
        end = data.find(b"\n", start)
        if end < 0:
            raise ValueError(f"it has fewer than the {count} lines that are to be skipped")
        start = end + 1
    return content[start:]
