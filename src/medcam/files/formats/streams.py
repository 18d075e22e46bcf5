"""Bytes from files, compressed or not, that are never more than the file's header announces.

A damaged or malicious file may announce little and inflate to much, or announce much and hold
little. So memory is taken only for bytes that are there, up to the number that is needed, and the
checksum at the end of a compressed stream is compared.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable
from typing import Protocol

_CHUNK = 2**24  # bytes of output that are asked for at once
_MAX_PADDING = 4096  # bytes of zeros or line ends after uncompressed voxels
_SLICE = 2**20  # bytes of input that are given at once
_GZIP_OR_ZLIB = 47  # as MAX_WBITS, with the format detected from the first bytes


class ByteStream(Protocol):
    """Bytes that are taken from the front, and may not be left over."""

    def take(self, count: int) -> bytearray | memoryview:
        """Return the next bytes; raise ValueError if there are fewer."""

    def finish(self) -> None:
        """Raise ValueError if there is more, or if a checksum is wrong."""


class PlainStream:
    """Uncompressed bytes.

    Example:
        >>> stream = PlainStream(b"abc")
        >>> bytes(stream.take(3)), stream.finish()
        (b'abc', None)
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)
        self._at = 0

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        part = self._content[self._at : self._at + count]
        if len(part) < count:
            raise ValueError(f"{count} bytes are announced, and {len(part)} are there")
        self._at += count
        return part

    def finish(self) -> None:
        """Raise ValueError if bytes are left, but for padding: zeros or line ends."""
        rest = self._content[self._at :]
        left = len(rest)
        if left and not (left <= _MAX_PADDING and not bytes(rest).strip(b"\0\r\n ")):
            raise ValueError(f"{left} bytes follow after the {self._at} that are announced")


class InflatingStream:
    """Bytes of a gzip, zlib or bzip2 stream, inflated as far as they are needed.

    Args:
        content: The compressed bytes; several gzip members one after the other are one stream.
        kind: "gzip", which is also zlib, or "bzip2".

    Example:
        >>> stream = InflatingStream(zlib.compress(b"abc"))
        >>> bytes(stream.take(3)), stream.finish()
        (b'abc', None)
    """

    def __init__(self, content: bytes | memoryview, kind: str = "gzip") -> None:
        self._new: Callable[[], _Decompressor] = (
            bz2.BZ2Decompressor if kind == "bzip2" else _ZlibDecompressor
        )
        self._decompressor: _Decompressor = self._new()
        self._input = memoryview(content)
        self._at = 0

    def take(self, count: int) -> bytearray:
        """Return the next bytes."""
        taken = bytearray()
        while len(taken) < count:
            part = self._next(min(count - len(taken), _CHUNK))
            if part is None:
                raise ValueError(f"{count} bytes are announced, and {len(taken)} are there")
            taken += part
        return taken

    def finish(self) -> None:
        """Raise ValueError if there is more, or if the stream was cut off or its checksum fails."""
        if self._next(1) is not None:
            raise ValueError("it inflates to more bytes than are announced")

    def _next(self, limit: int) -> bytes | None:
        """Return some of the next bytes; None at the verified end of the stream."""
        while True:
            if self._decompressor.eof and not self._begins_another():
                return None
            fresh = self._input[self._at : self._at + _SLICE]
            if not self._decompressor.needs_input:
                fresh = fresh[:0]
            self._at += len(fresh)
            try:
                part = self._decompressor.decompress(fresh, limit)
            except (zlib.error, OSError) as error:
                is_checksum = "data check" in str(error)
                reason = "CRC check failed" if is_checksum else str(error)
                raise ValueError(f"{reason} in its compressed data") from error
            if part:
                return part
            ended = self._at == len(self._input) and self._decompressor.needs_input
            if ended and not self._decompressor.eof:
                raise ValueError("its compressed data is cut off")

    def _begins_another(self) -> bool:
        """Begin with the next member after the end of one; return whether there is one."""
        self._at -= len(self._decompressor.unused_data)
        rest = self._input[self._at :]
        if not rest or (rest[0] == 0 and not any(rest)):  # padding, which gzip allows
            self._at = len(self._input)
            return False
        self._decompressor = self._new()
        return True


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int) -> bytes: ...


class _ZlibDecompressor:
    """zlib's decompressor with the interface of bz2's: it keeps the input that is not consumed."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: memoryview, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail or data, max_length)
