"""Pack arrays for a page: integer codes of a stated step, compressed and base64-encoded."""

from __future__ import annotations

import base64
import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = 65_535  # of the 65 536 codes of two bytes, one is reserved for values that are not finite
_STEPS = 1023  # from black to white of the reference window, or from 0 to the top of a map


@dataclass(frozen=True)
class Packed:
    """An array as text.

    The value of a code is ``(code + first) * step``; with ``gaps``, code 0 marks a value that is
    not finite. Two-byte codes are stored as all low bytes followed by all high bytes, which
    compresses better.

    Attributes:
        text: The codes, compressed by gzip, in base64. The first axis runs fastest.
        bytes: The number of bytes of a code, 1 or 2.
        first: The integer added to a code.
        step: The distance between neighbouring values.
        gaps: Whether code 0 marks values that are not finite.
        exact: Whether each value is kept exactly.
    """

    text: str
    bytes: int
    first: int
    step: float
    gaps: bool
    exact: bool


def pack(values: NDArray[Any], *, span: float) -> Packed:
    """Return an array as text, each value to within half a step.

    Integers are kept exactly if their range fits into 65 535 codes. Other values are rounded to
    multiples of a step, which is 1, 2 or 5 times a power of ten: so zero stays zero. The span has
    at least 1023 steps, unless the codes do not suffice for the range of the values.

    Args:
        values: Real numbers; the first axis runs fastest in the text.
        span: The range of values that is displayed.

    Example:
        >>> packed = pack(np.array([0.0, 0.5, 1.0]), span=1.0)
        >>> packed.step, packed.bytes, packed.first, packed.exact
        (0.0005, 2, 0, False)
        >>> np.frombuffer(gzip.decompress(base64.b64decode(packed.text)), np.uint8).tolist()
        [0, 232, 208, 0, 3, 7]
    """
    is_finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones((), bool)
    gaps = not bool(is_finite.all())
    finite = values[is_finite] if gaps else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    exact = high - low < _CODES and max(-low, high) < 2**53 and _are_integers(finite)
    step = 1.0 if exact else _step(low, high, span)
    exact = exact or low == high
    first = round(low / step) - int(gaps)
    two_bytes = round(high / step) - first > 255
    codes = np.empty(values.shape, np.uint16 if two_bytes else np.uint8, order="F")
    for index in range(values.shape[-1]):  # slice by slice, to avoid a float64 copy of the volume
        part = values[..., index].astype(np.float64)
        code = np.rint(part / step) - first
        codes[..., index] = np.where(is_finite[..., index], code, 0) if gaps else code
    flat = codes.reshape(-1, order="F")
    stored = np.concatenate([flat & 255, flat >> 8]).astype(np.uint8) if two_bytes else flat
    text = base64.b64encode(gzip.compress(stored.tobytes(), 6, mtime=0)).decode("ascii")
    return Packed(text, 2 if two_bytes else 1, first, step, gaps, exact)


def _are_integers(values: NDArray[Any]) -> bool:
    """Return whether all values are integers; the first 1000 are tested first, to fail fast."""
    if values.dtype.kind != "f":
        return True
    subset = values.reshape(-1)[:1000]
    return bool((subset == np.rint(subset)).all() and (values == np.rint(values)).all())


def _step(low: float, high: float, span: float) -> float:
    """Return the largest step that gives the span 1023 steps, but not less than is possible."""
    if low == high:
        return abs(low) or 1.0
    # The smallest step possible: limited by the number of codes and by the precision of float64.
    smallest = max((high - low) / (_CODES - 1), max(abs(low), abs(high)) * 2.0**-50)
    largest = span / _STEPS
    step = _round_number(largest, up=False) if largest > 0 else 0.0
    return step if step >= smallest else _round_number(smallest, up=True)


def _round_number(value: float, *, up: bool) -> float:
    """Return the nearest 1, 2 or 5 times a power of ten, rounded up or down."""
    power = math.floor(math.log10(value))
    candidates = [float(f"{digit}e{power + shift}") for shift in (-1, 0, 1) for digit in (1, 2, 5)]
    if up:
        return min(number for number in candidates if number >= value)
    return max(number for number in candidates if number <= value)
