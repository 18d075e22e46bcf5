"""Compare maps that were made again with those of a record: by digest, then by value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcam.errors import InputError, foreign_errors
from medcam.files.arrays import to_map
from medcam.files.paths import is_file
from medcam.files.record.contents import map_entries
from medcam.files.record.digests import sha256_of_array
from medcam.files.record.named_files import shown
from medcam.files.record.sidecar import read_sidecar
from medcam.maps import AttentionMap, ImageName
from medcam.views.scene.images import image_of, read_with_axes
from medcam.views.scene.selection import maps_on_grid

_MOST_RANKED = 1 << 21  # voxels whose ranks are compared


@dataclass(frozen=True, kw_only=True)
class MapComparison:
    """A map of a record, and the same map made again.

    Attributes:
        method: The method.
        layer: The layer; None for a map of the input.
        target: The target in words.
        recorded: The SHA-256 of the raw values in the record.
        current: The SHA-256 of the raw values now; None if there is no such map now.
        file: The name of the file of the recorded map; None if it is missing.
        difference: The largest absolute difference from the file's values; None without a file of
            the same shape.
        relative: The same as a share of the file's largest magnitude; None if that is 0.
        correlation: Spearman's rank correlation with the file's values; None if one is constant.
        problem: What is wrong with the file, e.g. that it no longer holds the recorded map; empty
            if nothing is, or if it is missing.
    """

    method: str
    layer: str | None
    target: str
    recorded: str
    current: str | None
    file: str | None
    difference: float | None = None
    relative: float | None = None
    correlation: float | None = None
    problem: str = ""

    @property
    def same(self) -> bool:
        """Whether the map is the same, bit for bit, and its file holds it."""
        return self.recorded == self.current and not self.problem


def compare_saved(
    maps: Sequence[AttentionMap],
    path: str | os.PathLike[str],
    *,
    inputs: Tensor | None,
    images: Mapping[ImageName, Tensor],
    image: object = None,
) -> list[MapComparison]:
    """Compare the maps of `medcam.Explanation` with those of a record, as `save` writes them.

    Args:
        maps: The maps of a batch.
        path: The record.
        inputs: The input that was explained; None if it is unknown.
        images: The inputs by name, if maps lie on several.
        image: As in `medcam.Explanation.save`.

    Raises:
        InputError: The record cannot be read, is of an earlier version, or of another sample.
    """
    path = Path(path)
    record = read_sidecar(path)
    with foreign_errors(f"'{path}' is damaged"):
        name = record["maps"][0]["image"]
        maps = [item for item in maps if item.image == name] or maps
        inputs = images.get(name, inputs)
        sample, batch = int(record["maps"][0]["sample"]), len(maps[0].values)
    if not 0 <= sample < batch:
        raise InputError(f"'{path}' is of sample {sample}; there are {batch}, counted from 0.")
    source = inputs if image is None else image
    if source is None:
        raise InputError("This explanation does not hold its input: compare(record, image=...).")
    background = image_of(source, maps[0].values.ndim - 2, sample=sample, batch=batch)
    input_space = None if inputs is None else tuple(inputs.shape[2:])
    on_grid = maps_on_grid(maps, background.space, sample=sample, input_space=input_space)
    return compare_maps(record, path, on_grid)


def compare_maps(
    record: Mapping[str, Any], path: Path, maps: Sequence[AttentionMap]
) -> list[MapComparison]:
    """Return a comparison for each map of a record, in its order.

    A map is compared with the one of the same method, layer and target; where there is none, with
    the next one that is left of its method.

    Args:
        record: The record.
        path: Its path; the files of the maps lie beside it.
        maps: The maps of one sample, made again, on the image's grid.

    Raises:
        InputError: The record is damaged, or of a version without digests of maps.
    """
    with foreign_errors(f"'{path}' is damaged", "Save the case again."):
        entries = record["maps"]
        if not entries or any("sha256" not in entry for entry in entries):
            raise InputError(
                f"'{path}' holds no hashes of its maps: it was written by an earlier version of "
                "medcam. Save the case again."
            )
        remade = [
            (entry, item.values[0, index])
            for item in maps
            for index, entry in enumerate(map_entries(item))
        ]
        names = record["files"].get("map", [])
        names = list(names) if len(names) == len(entries) else [None] * len(entries)
        keys, left = _keys(entries), dict(zip(_keys([e for e, _ in remade]), remade, strict=True))
        pairs = [left.pop(key, None) for key in keys]
        for number, key in enumerate(keys):
            if pairs[number] is None:
                near = next((other for other in left if other[0] == key[0]), None)
                pairs[number] = None if near is None else left.pop(near)
        return [
            _comparison(entry, pair, name, path)
            for entry, pair, name in zip(entries, pairs, names, strict=True)
        ]


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None, int]]:
    """Return each map's method, layer, and number among the targets of both."""
    counts: dict[tuple[str, str | None], int] = {}
    keys = []
    for entry in entries:
        key = (str(entry["method"]), None if entry["layer"] is None else str(entry["layer"]))
        counts[key] = counts.get(key, -1) + 1
        keys.append((*key, counts[key]))
    return keys


def _comparison(
    entry: Mapping[str, Any],
    remade: tuple[Mapping[str, Any], Tensor] | None,
    name: object,
    path: Path,
) -> MapComparison:
    """Return the comparison of one map."""
    recorded, current = str(entry["sha256"]), None if remade is None else remade[0]["sha256"]
    file, stored, problem = _stored(name, path, len(entry["shape"]))
    figures: dict[str, float | None] = {}
    if stored is not None:
        altered = entry.get("dtype") == "float32" and sha256_of_array(stored) != recorded
        if remade is not None:
            values = to_map(remade[1])
            if stored.shape == values.shape:
                figures = differences(stored, values)
                altered |= recorded == current and figures["difference"] != 0
            else:
                problem = f"is {list(stored.shape)}, the map now {list(values.shape)}"
        problem = "no longer holds the map of the record" if altered else problem
    return MapComparison(
        method=shown(entry["method"]),
        layer=None if entry["layer"] is None else shown(entry["layer"]),
        target=shown(entry["target"]["description"]),
        recorded=shown(recorded),
        current=current,
        file=file,
        problem=problem,
        **figures,
    )


def _stored(
    name: object, path: Path, axes: int
) -> tuple[str | None, NDArray[np.float32] | None, str]:
    """Return the name and values of a map's file beside the record, and what is wrong with it."""
    if not isinstance(name, str) or Path(name).name != name or "\\" in name or name == "..":
        return None, None, "is not beside the record"
    if not is_file(path.parent / name):
        return None, None, ""
    try:
        values = to_map(read_with_axes(path.parent / name, axes).array[0])
    except InputError as error:
        return shown(name), None, f"cannot be read: {error}"
    return shown(name), values, ""


def differences(stored: NDArray[Any], values: NDArray[Any]) -> dict[str, float | None]:
    """Return how far a map is from another one of the same shape.

    Returns:
        The largest absolute "difference"; "relative" to the first map's largest magnitude; the rank
        "correlation", for large maps of every n-th voxel.

    Example:
        >>> differences(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 4.0]))
        {'difference': 2.0, 'relative': 1.0, 'correlation': 1.0}
    """
    from scipy.stats import rankdata

    first, second = stored.reshape(-1), values.reshape(-1)
    difference = float(np.abs(first.astype(np.float64) - second).max())
    largest = float(np.abs(first).max())
    step = -(-first.size // _MOST_RANKED)
    ranks = [rankdata(part[::step]) for part in (first, second)]
    varies = all(rank.std() > 0 for rank in ranks)
    return {
        "difference": difference,
        "relative": difference / largest if largest > np.finfo(np.float32).tiny else None,
        "correlation": round(float(np.corrcoef(*ranks)[0, 1]), 12) if varies else None,
    }
