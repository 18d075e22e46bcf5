"""The record of how maps were made: plain values, which JSON can hold."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from medcam.engine.model.layers import unwrap
from medcam.errors import InputError, InputTypeError
from medcam.files.geometry import as_affine
from medcam.files.image import Image
from medcam.files.record.digests import sha256_of_array, sha256_of_file, sha256_of_model
from medcam.files.record.sidecar import SCHEMA, plain_values
from medcam.maps import AttentionMap

_DETACHED = (".mhd", ".nhdr")  # headers whose voxels are in another file

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class HasMaps(Protocol):
    """Something that holds maps by key: a `medcam.Explanation`."""

    @property
    def maps(self) -> Mapping[Any, AttentionMap]:
        """The maps."""


def provenance(
    *,
    model: nn.Module,
    inputs: object,
    maps: HasMaps | AttentionMap | Iterable[AttentionMap],
    folder: str | os.PathLike[str] | None = None,
    files: Mapping[str, Paths] | None = None,
    affine: object = None,
    windows: Mapping[str, object] | None = None,
    folds: Iterable[int | str] | None = None,
    seed: int | None = None,
    time: datetime | None = None,
    extra: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The record of how maps were made: plain values, which `write_sidecar` writes as JSON.

    Two calls with the same arguments differ in ``created`` only.

    Args:
        model: The model that was explained: its class, and the SHA-256 of its weights.
        inputs: What it was given: an `Image`, an array or tensor, the path of a file, or a list of
            these. Of files the SHA-256 is that of the file, else that of the array.
        maps: The maps: method, layer, target, raw range and shape of each sample's and target's.
        folder: The folder that the record will be in; paths in it are relative to that.
        files: What lies beside the record, by role: ``{"map": path, "mask": path}``, or several
            paths of one role.
        affine: The affine of the maps; None: that of the first `Image` among the inputs.
        windows: The settings of a sliding window, e.g. ``{"roi_size": (96, 96, 96)}``.
        folds: The folds of an ensemble.
        seed: The seed of a method that draws random numbers.
        time: When; None: now.
        extra: Anything else, in a part of its own.

    Returns:
        The record: ``schema``, ``created``, ``versions``, ``model``, ``inputs``, ``geometry``,
        ``maps``, ``windows``, ``folds``, ``seed``, ``files``, ``extra``.

    Raises:
        InputError: A map with NaN; a path without ``folder``; a file that cannot be read.
        InputTypeError: Something that JSON cannot hold.

    Example:
        >>> from medcam import explain
        >>> from medcam.engine.target import targets
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))
        >>> x = torch.rand(1, 1, 8, 8)
        >>> explanation = explain(net, x, layer="1", target=targets.class_score(0))
        >>> record = provenance(model=net, inputs=x, maps=explanation)
        >>> record["maps"][0]["layer"], record["maps"][0]["shape"], record["geometry"]
        ('1', [8, 8], None)
    """
    given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if affine is None:
        affine = next((image.affine for image in given if isinstance(image, Image)), None)
    moment = (time or datetime.now(timezone.utc)).astimezone(timezone.utc)
    model = unwrap(model)
    record = {
        "schema": SCHEMA,
        "created": moment.isoformat(timespec="seconds"),
        "versions": {
            "medcam": metadata.version("m3d-cam"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "state_sha256": sha256_of_model(model),
        },
        "inputs": [entry for value in given for entry in _input(value, folder)],
        "geometry": None if affine is None else _geometry(affine),
        "maps": [entry for attention_map in _listed(maps) for entry in _maps(attention_map)],
        "windows": windows,
        "folds": None if folds is None else list(folds),
        "seed": seed,
        "files": {role: _relative(paths, folder) for role, paths in (files or {}).items()},
        "extra": dict(extra or {}),
    }
    return {name: plain_values(value, name) for name, value in record.items()}


def _listed(maps: object) -> list[AttentionMap]:
    held = getattr(maps, "maps", None)
    if isinstance(held, Mapping):
        maps = held.values()
    listed = [maps] if isinstance(maps, AttentionMap) else maps
    if not isinstance(listed, Iterable):
        listed = [listed]
    listed = list(listed)
    for one in listed:
        if not isinstance(one, AttentionMap):
            raise InputTypeError(
                f"maps= takes an Explanation or AttentionMaps, not {type(one).__name__}."
            )
    return listed


def _maps(attention_map: AttentionMap) -> list[dict[str, Any]]:
    """One entry for each sample and target."""
    flat = attention_map.values.flatten(2)
    low, high = flat.amin(2).tolist(), flat.amax(2).tolist()
    target = attention_map.target
    classes = None if target.classes is None else target.classes.tolist()
    voxels = None if target.voxels is None else target.voxels.tolist()
    return [
        {
            "method": attention_map.method,
            "title": attention_map.title,
            "layer": attention_map.layer,
            "signed": attention_map.signed,
            "sample": sample,
            "target": {
                "description": target.description,
                "task": target.task,
                "class": None if classes is None else classes[sample][index],
                "voxels": None if voxels is None else voxels[sample][index],
            },
            "shape": list(attention_map.values.shape[2:]),
            "range": [low[sample][index], high[sample][index]],
        }
        for sample in range(flat.shape[0])
        for index in range(flat.shape[1])
    ]


def _input(value: object, folder: str | os.PathLike[str] | None) -> list[dict[str, Any]]:
    """One entry for each file or array that a model was given."""
    if isinstance(value, str | os.PathLike):
        return [
            {"path": _relative(value, folder)[0], "sha256": sha256_of_file(value), "of": "file"}
        ]
    array = value.array if isinstance(value, Image) else value
    detached = isinstance(value, Image) and any(
        path.suffix.lower() in _DETACHED for path in value.paths
    )
    if not isinstance(value, Image) or detached or not value.paths:
        path = value.path if isinstance(value, Image) else None
        return [
            {
                "path": None if path is None else _relative(path, folder)[0],
                "sha256": sha256_of_array(array),
                "of": "array",
            }
        ]
    return [entry for path in value.paths for entry in _input(path, folder)]


def _geometry(affine: object) -> dict[str, Any]:
    import nibabel

    checked = as_affine(affine, "The maps' affine")
    return {
        "affine": checked.tolist(),
        "orientation": "".join(nibabel.aff2axcodes(checked)),
        "unit": "mm",
    }


def _relative(paths: Paths, folder: str | os.PathLike[str] | None) -> list[str]:
    """Paths as seen from the record's folder, with forward slashes on every system."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if folder is None and listed:
        raise InputError(
            f"The record names '{listed[0]}': give folder=, the folder that the record goes to, so "
            "that the path can be relative to it."
        )
    return [_seen_from(folder or ".", path) for path in listed]


def _seen_from(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows, where no relative path leads
        return Path(path).name
