"""Select which maps are drawn, on the grid of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medcam import methods
from medcam.errors import InputError, InputTypeError, unknown_name
from medcam.files.arrays import to_map
from medcam.maps import AttentionMap, ResolvedTarget, resample
from medcam.views.scene.maps import scene_maps
from medcam.views.scene.values import SceneMap

_UNNAMED = "Attention map"


def attention_maps(source: object) -> list[AttentionMap]:
    """Return the maps of what `medcam.montage` takes, in their order.

    Args:
        source: One map, several, or a mapping of them; or an array ``[*space]`` or ``[batch,
            targets, *space]``.

    Raises:
        InputError: No map, or maps of batches that differ.
        InputTypeError: Something else.

    Example:
        >>> attention_maps(np.zeros((1, 2, 3, 4)))
        [AttentionMap(Attention map of the input, [1, 2, 3, 4], )]
    """
    if isinstance(source, AttentionMap):
        maps = [source]
    elif isinstance(source, np.ndarray | torch.Tensor):
        maps = [_from_array(source)]
    elif isinstance(source, Mapping | Iterable) and not isinstance(source, str | bytes):
        items = source.values() if isinstance(source, Mapping) else source
        maps = [one for item in items for one in attention_maps(item)]
    else:
        raise InputTypeError(
            f"A montage is made of an explanation, of AttentionMaps or of an array, not of "
            f"{type(source).__name__}."
        )
    if not maps:
        raise InputError("There is no map to draw.")
    if len({(len(one.values), one.values.ndim) for one in maps}) > 1:
        raise InputError(
            "The maps differ in their samples or axes: draw those of one batch together."
        )
    return maps


def on_grid(
    maps: Iterable[AttentionMap],
    space: Sequence[int],
    *,
    sample: int = 0,
    covers: Sequence[int] | None = None,
) -> list[AttentionMap]:
    """Gives one sample's maps on the grid of its image, ``[1, targets, *space]``.

    Args:
        maps: The maps.
        space: The extents of the image.
        sample: Which one of the batch.
        covers: The extents of the input, where they are known: maps of other extents lie on the
            same ground as it.

    Raises:
        InputError: It is not known whether the maps cover the image.
    """
    space = tuple(space)
    known = len(space) == 2 or (covers is not None and tuple(covers) == space)
    found = []
    for one in maps:
        own = tuple(one.values.shape[2:])
        if own != space and not (known and len(own) == len(space)):
            raise InputError(
                f"The maps are {list(own)}, the image {list(space)}: whether they cover the same "
                f"ground is not known. If they do, explain(..., shape={space}); else give the "
                "image that the model saw."
            )
        at = slice(sample, sample + 1)
        target = one.target
        target = replace(
            target,
            classes=None if target.classes is None else target.classes[at],
            voxels=None if target.voxels is None else target.voxels[at],
        )
        values = resample(one.values[at].detach(), space)
        found.append(replace(one, values=values, target=target, channels=None))
    return found


def maps_of(
    maps: Sequence[AttentionMap],
    *,
    sample: int = 0,
    target: int | None = None,
    method: methods.MethodLike | None = None,
    layer: str | None = None,
    space: Sequence[int] | None = None,
    covers: Sequence[int] | None = None,
) -> list[SceneMap]:
    """Gives the maps of one sample that were asked for, on the grid of its image.

    Args:
        maps: The maps.
        sample: Which one of the batch.
        target: Only the maps of this class; of maps of no class, this one of the targets.
        method: Only this method's.
        layer: Only this layer's.
        space: The extents of the image; None: the first map's.
        covers: The extents of the input that the maps were made of, where they are known: maps of
            other extents then lie on the same ground as it.

    Raises:
        InputError: No such sample or map, or maps of which it is not known where they lie.

    Example:
        >>> maps = attention_maps(np.zeros((1, 2, 3, 4)))
        >>> [one.target for one in maps_of(maps, target=1)]
        [', 2']
    """
    batch = len(maps[0].values)
    if not 0 <= sample < batch:
        raise InputError(f"sample={sample}: there are {batch} samples, counted from 0.")
    named = None if method is None else methods.get(method).name
    if layer is not None and layer not in {one.layer for one in maps}:
        known = [one.layer for one in maps if one.layer is not None]
        raise unknown_name("Layer", layer, known, more="No map of it was made.")
    chosen = [
        one
        for one in maps
        if named in (None, one.method) and (layer is None or one.layer in (None, layer))
    ]
    places = [
        target is None or _number(one, sample, place) == target
        for one in chosen
        for place in range(one.values.shape[1])
    ]
    if not any(places):
        raise InputError(
            f"There is no map of method={method!r}, layer={layer!r}, target={target!r}; there are "
            f"{', '.join(sorted({one.method for one in maps}))} of {_targets(maps, sample)}."
        )
    wanted = tuple(maps[0].values.shape[2:]) if space is None else space
    placed = on_grid(chosen, wanted, sample=sample, covers=covers)
    shown = scene_maps(placed)
    return [one for one, kept in zip(shown, places, strict=True) if kept]


def _number(one: AttentionMap, sample: int, place: int) -> int:
    """The class that a map is of, else its place among the targets."""
    classes = one.target.classes
    return place if classes is None else int(classes[sample, place])


def _targets(maps: Sequence[AttentionMap], sample: int) -> str:
    numbers = {_number(one, sample, place) for one in maps for place in range(one.values.shape[1])}
    return "target " + ", ".join(str(number) for number in sorted(numbers))


def _from_array(given: Any) -> AttentionMap:
    values = to_map(given)
    if values.ndim in (2, 3):
        values = values[None, None]
    if values.ndim not in (4, 5):
        raise InputError(
            f"An array of maps is [*space] or [batch, targets, *space], not {list(values.shape)}."
        )
    target = ResolvedTarget("", "segmentation")  # nothing is said of either
    signed = bool((values < 0).any())
    tensor = torch.from_numpy(np.ascontiguousarray(values))  # nibabel turns images by strides
    return AttentionMap(tensor, _UNNAMED, None, target, signed)
