"""The contents of a record: model, inputs, maps, settings and versions, as JSON values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

from torch import nn

from medcam.engine.model.layers import unwrap
from medcam.errors import InputError, InputTypeError
from medcam.files.geometry import as_affine
from medcam.files.image import Image
from medcam.files.record.digests import sha256_of_array, sha256_of_file, sha256_of_model
from medcam.files.record.environment import environment_of, installed_versions
from medcam.files.record.named_files import relative_path
from medcam.files.record.sidecar import SCHEMA, to_json_values
from medcam.maps import AttentionMap, LayerGrid

_HEADER_ENDINGS = (".mhd", ".nhdr")  # the voxels are in another file

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class HasMaps(Protocol):
    """An object with a mapping of maps, such as `medcam.Explanation`."""

    @property
    def maps(self) -> Mapping[Any, AttentionMap]:
        """The maps by their keys."""


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
    """Return the record of how maps were made, in values that `write_sidecar` writes as JSON.

    Two calls with the same arguments differ in ``created`` only (and in ``versions``, if a further
    package was imported between them).

    Args:
        model: The model that was explained. The record holds its class and the SHA-256 of its
            weights.
        inputs: The model's inputs: an `Image`, an array or tensor, a file's path, or a list of
            these. The record holds the SHA-256 of each file, or of the array if there is no file.
        maps: The maps. The record holds the method, layer, target, shape, raw range and SHA-256 of
            the raw values of the map of each sample and target.
        folder: The folder that the record will be written to; its paths are relative to it.
        files: The files that belong to the record, by role: ``{"map": path, "mask": path}``. A role
            may have several paths.
        affine: The affine of the maps; default: that of the first `Image` among the inputs.
        windows: The settings of a sliding window, e.g. ``{"roi_size": (96, 96, 96)}``.
        folds: The folds of an ensemble.
        seed: The seed of a method that draws random numbers.
        time: The time of creation; default: now.
        extra: Further entries, stored under ``extra``.

    Returns:
        The record: ``schema``, ``created``, ``versions``, ``environment``, ``model``, ``inputs``,
        ``geometry``, ``maps``, ``windows``, ``folds``, ``seed``, ``files``, ``extra``.

    Raises:
        InputError: A number is NaN or infinite, a path is given without ``folder``, or a file
            cannot be read.
        InputTypeError: A value is of a type that JSON cannot hold.

    Example:
        >>> import torch
        >>> from medcam import explain
        >>> from medcam.engine.target import targets
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))
        >>> x = torch.rand(1, 1, 8, 8)
        >>> explanation = explain(net, x, layer="1", target=targets.class_score(0))
        >>> record = provenance(model=net, inputs=x, maps=explanation)
        >>> record["maps"][0]["layer"], record["maps"][0]["shape"], record["geometry"]
        ('1', [8, 8], None)
    """
    values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if affine is None:
        affine = next((value.affine for value in values if isinstance(value, Image)), None)
    created = (time or datetime.now(timezone.utc)).astimezone(timezone.utc)
    model, attention_maps = unwrap(model), _list_maps(maps)
    record = {
        "schema": SCHEMA,
        "created": created.isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "environment": environment_of(model, [item.values for item in attention_maps]),
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "state_sha256": sha256_of_model(model),
        },
        "inputs": [entry for value in values for entry in _input_entries(value, folder)],
        "geometry": None if affine is None else _geometry_entry(affine),
        "maps": [entry for item in attention_maps for entry in map_entries(item)],
        "windows": windows,
        "folds": None if folds is None else list(folds),
        "seed": seed,
        "files": {role: _relative_paths(paths, folder) for role, paths in (files or {}).items()},
        "extra": dict(extra or {}),
    }
    return {name: to_json_values(value, name) for name, value in record.items()}


def _list_maps(maps: object) -> list[AttentionMap]:
    """Return the maps of an explanation, or those given one by one, as a list."""
    maps_by_key = getattr(maps, "maps", None)
    if isinstance(maps_by_key, Mapping):
        maps = maps_by_key.values()
    if isinstance(maps, AttentionMap) or not isinstance(maps, Iterable):
        maps = [maps]
    attention_maps = []
    for item in maps:
        if not isinstance(item, AttentionMap):
            raise InputTypeError(
                f"maps= takes an Explanation or AttentionMaps, not {type(item).__name__}."
            )
        attention_maps.append(item)
    return attention_maps


def map_entries(attention_map: AttentionMap) -> list[dict[str, Any]]:
    """Return one entry for each sample and target, with the digest of its raw values."""
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
            "image": attention_map.image,
            "placement": _placement_entry(attention_map.grid),
            "shape": list(attention_map.values.shape[2:]),
            "range": [low[sample][index], high[sample][index]],
            "dtype": str(attention_map.values.dtype).removeprefix("torch."),
            "sha256": sha256_of_array(attention_map.values[sample, index]),
        }
        for sample in range(flat.shape[0])
        for index in range(flat.shape[1])
    ]


def _placement_entry(grid: LayerGrid | None) -> dict[str, Any] | None:
    """Return where the layer's cells lie on the input, in voxels; None for maps of the input."""
    if grid is None:
        return None
    return {
        "start": list(grid.start), "step": list(grid.step), "stretched": grid.reason or None,
        "seen": [list(borders) for borders in grid.seen] or None,
    }  # fmt: skip


def _input_entries(value: object, folder: str | os.PathLike[str] | None) -> list[dict[str, Any]]:
    """Return one entry for each file or array among a model's inputs."""
    if isinstance(value, str | os.PathLike):
        path = _relative_paths(value, folder)[0]
        return [{"path": path, "sha256": sha256_of_file(value), "of": "file"}]
    if not isinstance(value, Image):
        return [{"path": None, "sha256": sha256_of_array(value), "of": "array"}]
    if value.path is None:
        return [{"path": None, "sha256": sha256_of_array(value.array), "of": "array"}]
    if any(path.suffix.lower() in _HEADER_ENDINGS for path in value.paths):
        path = _relative_paths(value.path, folder)[0]
        return [{"path": path, "sha256": sha256_of_array(value.array), "of": "array"}]
    return [entry for path in value.paths for entry in _input_entries(path, folder)]


def _geometry_entry(affine: object) -> dict[str, Any]:
    """Return the affine, validated, with the names of its axes and its unit."""
    import nibabel

    checked = as_affine(affine, "The maps' affine")
    return {
        "affine": checked.tolist(),
        "orientation": "".join(nibabel.aff2axcodes(checked)),
        "unit": "mm",
    }


def _relative_paths(paths: Paths, folder: str | os.PathLike[str] | None) -> list[str]:
    """Return paths relative to the record's folder, with forward slashes on every system."""
    path_list = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if folder is None and path_list:
        raise InputError(
            f"The record names '{path_list[0]}': give folder=, the folder that the record will be "
            "written to, so that the path can be relative to it."
        )
    return [relative_path(path, folder or ".") for path in path_list]
