"""SHA-256 digests of files, arrays and the weights of models."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model.layers import unwrap
from medcam.errors import InputError
from medcam.files.arrays import to_array

_CHUNK = 1 << 22  # read at once: bytes of a file, elements of a tensor


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as ``sha256sum`` prints it.

    Raises:
        InputError: The file cannot be read.
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
    """Return the SHA-256 of an array or tensor: of its dtype, its shape and its values.

    The values are hashed in C order and little-endian, whatever their memory layout.

    Raises:
        InputTypeError: The values are not real numbers.

    Example:
        >>> values = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> sha256_of_array(values) == sha256_of_array(torch.from_numpy(values))
        True
        >>> sha256_of_array(values) == sha256_of_array(values.reshape(3, 2))
        False
    """
    array = to_array(values, "The input")
    digest = hashlib.sha256(_encode_header("", array.dtype.name, array.shape))
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def sha256_of_model(model: nn.Module) -> str:
    """Return the SHA-256 of a model's ``state_dict``: the name, dtype, shape and bytes per entry.

    It does not depend on the device, on the order in which layers were registered, or on a wrapper
    around the model (DataParallel, torch.compile, medcam). Weights are hashed in chunks, so that
    they are not copied as a whole.

    Raises:
        InputError: A parameter has no values yet: it is lazy or on the meta device.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> before = sha256_of_model(net)
        >>> before == sha256_of_model(nn.DataParallel(net))
        True
        >>> _ = nn.init.zeros_(net.bias)
        >>> before == sha256_of_model(net)
        False
    """
    return sha256_of_state(unwrap(model).state_dict())


def sha256_of_state(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a ``state_dict``, as `sha256_of_model` does it.

    Raises:
        InputError: A parameter has no values yet.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor):  # the result of a get_extra_state()
            digest.update(_encode_header(name, type(value).__name__, ()))
            digest.update(pickle.dumps(value, protocol=4))
            continue
        if is_lazy(value) or value.is_meta:
            raise InputError(
                f"The model's {name!r} has no values yet: load its weights, or run the model once."
            )
        digest.update(
            _encode_header(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        )
        for chunk in _byte_chunks(value.detach()):
            digest.update(chunk)
    return digest.hexdigest()


def _encode_header(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return a header that makes the encoding of an array unambiguous."""
    return json.dumps([name, dtype, list(shape)]).encode() + b"\n"


def _byte_chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in C order; PyTorch runs on little-endian machines only."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.as_subclass(Tensor).reshape(-1)  # a copy if not contiguous
    for start in range(0, len(flat), _CHUNK):
        # a conjugate or negative view has the bytes of its original until it is resolved
        chunk = flat[start : start + _CHUNK].resolve_conj().resolve_neg().contiguous().cpu()
        yield chunk.view(torch.uint8).numpy().data
