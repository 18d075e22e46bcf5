"""Parts of a record that a page shows, which another program may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mapping_in(record: str, value: Any) -> Mapping[str, Any]:
    """Return a part of a record that is a mapping.

    Args:
        record: What the record is of, such as "a check".
        value: The part.

    Raises:
        TypeError: It is none.

    Example:
        >>> mapping_in("a check", {"target": "class 1"})
        {'target': 'class 1'}
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"the record of {record} holds a {type(value).__name__}")
    return value
