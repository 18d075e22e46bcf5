"""Reader of the constants of a frozen TensorFlow graph; it does not need TensorFlow.

A frozen ``graph.pb`` is one protobuf message, and its weights are the tensors of its ``Const``
nodes. The few fields read here, with their numbers::

    GraphDef     node = 1 (repeated NodeDef)
    NodeDef      name = 1, op = 2, attr = 5 (map: key = 1, value = 2 AttrValue)
    AttrValue    tensor = 8 (TensorProto)
    TensorProto  dtype = 1, tensor_shape = 2, tensor_content = 4, float_val = 5
    TensorShape  dim = 2 (repeated: size = 1)
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_DT_FLOAT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_float_constants(path: Path) -> dict[str, np.ndarray]:
    """Read every float32 constant of a frozen graph.

    Args:
        path: The file ``graph.pb``.

    Returns:
        The arrays by node name, in TensorFlow's axis order.

    Raises:
        ValueError: The file is not a protobuf message, or a tensor is incomplete.
    """
    constants = {}
    for node in _submessages(path.read_bytes(), 1):
        if _first(node, 2) != b"Const":
            continue
        attributes = {_first(entry, 1): _first(entry, 2) for entry in _submessages(node, 5)}
        tensor = _first(attributes[b"value"], 8)
        if _first(tensor, 1) == _DT_FLOAT:
            constants[_first(node, 1).decode()] = _to_array(tensor)
    return constants


def _to_array(tensor: bytes) -> np.ndarray:
    dims = _submessages(_first(tensor, 2, b""), 2)
    # protobuf omits a field with its default value, so an absent size is 0
    shape = tuple(_first(dim, 1, 0) for dim in dims)
    # a scalar is stored in float_val (packed or not), all other tensors as little-endian bytes
    raw = _first(tensor, 4, b"") or _first(tensor, 5, b"")
    values = np.frombuffer(raw, dtype="<f4")
    if values.size == 1:
        return np.full(shape, values[0])
    if values.size != prod(shape):
        raise ValueError(f"A tensor of shape {shape} holds {values.size} values.")
    return values.reshape(shape)


def _submessages(message: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(message) if field == number]


def _first(message: bytes, number: int, default: Any = None) -> Any:
    return next((value for field, value in _fields(message) if field == number), default)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value): an int for a varint, bytes for everything else."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, offset = _varint(message, offset)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(
                f"Wire type {wire_type} at byte {offset}: this is not a protobuf message."
            )
        yield number, message[offset : offset + size]
        offset += size


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    """Return the integer at the offset, and the offset behind it."""
    value = shift = 0
    while True:
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
