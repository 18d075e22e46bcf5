"""SHA-256 of what a map was made of: files, arrays, the weights of a model."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model.layers import unwrap
from medcam.errors import InputError
from medcam.files.arrays import to_array

_CHUNK = 1 << 22  # bytes of a file, elements of a tensor


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as ``sha256sum`` gives it.

    Raises:
        InputError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def sha256_of_array(values: object) -> str:
    """The SHA-256 of an array or tensor: its type, its shape and its numbers, row by row.

    Raises:
        InputTypeError: Not numbers.

    Example:
        >>> values = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> sha256_of_array(values) == sha256_of_array(torch.from_numpy(values))
        True
        >>> sha256_of_array(values) == sha256_of_array(values.reshape(3, 2))
        False
    """
    array = to_array(values, "The input")
    digest = hashlib.sha256(_header("", array.dtype.name, array.shape))
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def sha256_of_model(model: nn.Module) -> str:
    """The SHA-256 of a model's ``state_dict``: of each entry, by name, its type, shape and bytes.

    It is the same on every device, with and without DataParallel, torch.compile or medcam around
    the model, and in whichever order the layers were registered. Weights are looked at in pieces:
    no second copy of them is made.

    Raises:
        InputError: A parameter has no values yet (lazy, or on the meta device).

    Example:
        >>> net = nn.Linear(2, 3)
        >>> before = sha256_of_model(net)
        >>> before == sha256_of_model(nn.DataParallel(net))
        True
        >>> _ = nn.init.zeros_(net.bias)
        >>> before == sha256_of_model(net)
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(unwrap(model).state_dict().items()):
        if not isinstance(value, Tensor):  # what a module put there with get_extra_state
            digest.update(_header(name, type(value).__name__, ()))
            digest.update(pickle.dumps(value, protocol=4))
            continue
        if is_lazy(value) or value.is_meta:
            raise InputError(
                f"The model's {name!r} has no values yet: load its weights, or run it once, first."
            )
        digest.update(_header(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)))
        for piece in _pieces(value.detach()):
            digest.update(piece)
    return digest.hexdigest()


def _header(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the bytes of an array, so that no two arrays are the same bytes."""
    return json.dumps([name, dtype, list(shape)]).encode() + b"\n"


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, row by row, little-endian on every machine that torch runs on."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.as_subclass(Tensor).reshape(-1)  # copies this one, if it is not contiguous
    for start in range(0, len(flat), _CHUNK):
        piece = flat[start : start + _CHUNK].resolve_conj().resolve_neg().contiguous().cpu()
        yield piece.view(torch.uint8).numpy().data
