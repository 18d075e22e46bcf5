"""Arrays inside a page: steps of a stated size, as bytes, zipped, as text."""

from __future__ import annotations

import base64
import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = 65_535  # one of the 65 536 is kept for "not a number"
_FINE = 1023  # steps from the black of the first window to its white, or from 0 to a map's top


@dataclass(frozen=True)
class Packed:
    """An array as text.

    The value of code c is ``(c + first) * step``; with ``gaps``, code 0 is "not a finite number".
    Two-byte codes are stored as all low bytes, then all high bytes, which zips better.

    Attributes:
        text: The codes, gzip, base64. The first axis runs fastest.
        bytes: How many bytes a code has, 1 or 2.
        first: The whole number that is added to a code.
        step: The distance of two neighbouring values.
        gaps: Whether code 0 stands for values that are not finite.
        exact: Whether each value is kept exactly.
    """

    text: str
    bytes: int
    first: int
    step: float
    gaps: bool
    exact: bool


def pack(values: NDArray[Any], *, span: float) -> Packed:
    """Gives an array as text, each value to within half a step.

    Whole numbers keep their values where 65 535 codes reach. Others are kept in steps of 1, 2 or 5
    times a power of ten, at least 1023 to the span unless the codes run out: so zero stays zero.

    Args:
        values: Real numbers; the first axis runs fastest in the text.
        span: The range of values that is looked at.

    Example:
        >>> packed = pack(np.array([0.0, 0.5, 1.0]), span=1.0)
        >>> packed.step, packed.bytes, packed.first, packed.exact
        (0.0005, 2, 0, False)
        >>> np.frombuffer(gzip.decompress(base64.b64decode(packed.text)), np.uint8).tolist()
        [0, 232, 208, 0, 3, 7]
    """
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones((), bool)
    gaps = not bool(finite.all())
    known = values[finite] if gaps else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    exact = high - low < _CODES and max(-low, high) < 2**53 and _whole(known)
    step = 1.0 if exact else _step(low, high, span)
    exact = exact or low == high
    first = round(low / step) - int(gaps)
    wide = round(high / step) - first > 255
    codes = np.empty(values.shape, np.uint16 if wide else np.uint8, order="F")
    for index in range(values.shape[-1]):  # slice by slice: no second volume in float64
        part = values[..., index].astype(np.float64)
        code = np.rint(part / step) - first
        codes[..., index] = np.where(finite[..., index], code, 0) if gaps else code
    flat = codes.reshape(-1, order="F")
    stored = np.concatenate([flat & 255, flat >> 8]).astype(np.uint8) if wide else flat
    text = base64.b64encode(gzip.compress(stored.tobytes(), 6, mtime=0)).decode("ascii")
    return Packed(text, 2 if wide else 1, first, step, gaps, exact)


def _whole(values: NDArray[Any]) -> bool:
    """Whether all are whole numbers, looking at a few first."""
    if values.dtype.kind != "f":
        return True
    few = values.reshape(-1)[:1000]
    return bool((few == np.rint(few)).all() and (values == np.rint(values)).all())


def _step(low: float, high: float, span: float) -> float:
    if low == high:
        return abs(low) or 1.0
    # The smallest step that codes and float64 allow; the largest one that is fine enough.
    least = max((high - low) / (_CODES - 1), max(abs(low), abs(high)) * 2.0**-50)
    wanted = span / _FINE
    step = _round_number(wanted, up=False) if wanted > 0 else 0.0
    return step if step >= least else _round_number(least, up=True)


def _round_number(value: float, *, up: bool) -> float:
    """The nearest 1, 2 or 5 times a power of ten, not above or not below."""
    power = math.floor(math.log10(value))
    numbers = [float(f"{digit}e{power + more}") for more in (-1, 0, 1) for digit in (1, 2, 5)]
    if up:
        return min(number for number in numbers if number >= value)
    return max(number for number in numbers if number <= value)
