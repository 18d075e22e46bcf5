"""Select the maps to draw, and bring them to the grid of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medcam import methods
from medcam.errors import InputError, InputTypeError, unknown_name
from medcam.files.arrays import to_map
from medcam.maps import AttentionMap, ResolvedTarget
from medcam.views.scene.maps import scene_maps
from medcam.views.scene.values import SceneMap

_UNNAMED = "Attention map"


def attention_maps(source: object) -> list[AttentionMap]:
    """Return the maps of a source that `medcam.montage` accepts, in their order.

    Args:
        source: One map, several, or a mapping of them; or an array ``[*space]`` or ``[batch,
            targets, *space]``.

    Raises:
        InputError: There is no map, or the maps differ in their samples or axes.
        InputTypeError: The source is of another type.

    Example:
        >>> attention_maps(np.zeros((1, 2, 3, 4)))
        [AttentionMap(Attention map of the input, [1, 2, 3, 4], )]
    """
    if isinstance(source, AttentionMap):
        maps = [source]
    elif isinstance(source, np.ndarray | torch.Tensor):
        maps = [_map_from_array(source)]
    elif isinstance(source, Mapping | Iterable) and not isinstance(source, str | bytes):
        items = source.values() if isinstance(source, Mapping) else source
        maps = [map_ for item in items for map_ in attention_maps(item)]
    else:
        raise InputTypeError(
            f"A montage is made of an explanation, of AttentionMaps or of an array, not of "
            f"{type(source).__name__}."
        )
    if not maps:
        raise InputError("There is no map to draw.")
    if len({(len(map_.values), map_.values.ndim) for map_ in maps}) > 1:
        raise InputError(
            "The maps differ in their samples or axes: draw those of one batch together."
        )
    return maps


def maps_on_grid(
    maps: Iterable[AttentionMap],
    space: Sequence[int],
    *,
    sample: int = 0,
    input_space: Sequence[int] | None = None,
) -> list[AttentionMap]:
    """Return one sample's maps resampled to the grid of its image, ``[1, targets, *space]``.

    Maps of other extents than the image are accepted only if they are known to cover the same
    region: 2D maps, and maps whose input had the extents of the image.

    Args:
        maps: The maps.
        space: The extents of the image.
        sample: The sample's index in the batch.
        input_space: The extents of the input that was explained, if they are known.

    Raises:
        InputError: It is unknown whether a map covers the same region as the image.
    """
    space = tuple(space)
    same_region = len(space) == 2 or (input_space is not None and tuple(input_space) == space)
    resampled = []
    for map_ in maps:
        map_space = tuple(map_.values.shape[2:])
        if map_space != space and sorted(map_space) == sorted(space):
            raise InputError(
                f"The maps are {list(map_space)}, the image {list(space)}: the same extents in "
                "another order. Transpose the image to the order of the network's input, or the "
                "maps' values to that of the image, and give medcam.save its affine."
            )
        if map_space != space and not (same_region and len(map_space) == len(space)):
            raise InputError(
                f"The maps are {list(map_space)}, the image {list(space)}: it is unknown whether "
                f"they cover the same region. If they do, use explain(..., shape={space}); "
                "otherwise give the image that the model was given."
            )
        selected = slice(sample, sample + 1)
        target = map_.target
        target = replace(
            target,
            classes=None if target.classes is None else target.classes[selected],
            voxels=None if target.voxels is None else target.voxels[selected],
        )
        single = replace(map_, values=map_.values[selected].detach(), target=target, channels=None)
        resampled.append(replace(single, values=single.at(space), on_layer=False))
    return resampled


def select_scene_maps(
    maps: Sequence[AttentionMap],
    *,
    sample: int = 0,
    target: int | None = None,
    method: methods.MethodLike | None = None,
    layer: str | None = None,
    space: Sequence[int] | None = None,
    input_space: Sequence[int] | None = None,
) -> list[SceneMap]:
    """Return the requested maps of one sample, on the grid of its image.

    Args:
        maps: The maps.
        sample: The sample's index in the batch.
        target: Return only the maps of this class; of maps without classes, the target of this
            index.
        method: Return only the maps of this method.
        layer: Return only the maps of this layer and those without a layer.
        space: The extents of the image. None: those of the first map.
        input_space: As in `maps_on_grid`.

    Raises:
        InputError: There is no such sample or map, or it is unknown whether the maps cover the same
            region as the image.
        UnknownNameError: There is no such layer or method.

    Example:
        >>> maps = attention_maps(np.zeros((1, 2, 3, 4)))
        >>> [scene_map.target for scene_map in select_scene_maps(maps, target=1)]
        [', 2']
    """
    batch = len(maps[0].values)
    if not 0 <= sample < batch:
        raise InputError(f"sample={sample}: there are {batch} samples, counted from 0.")
    method_name = None if method is None else methods.get(method).name
    if layer is not None and layer not in {map_.layer for map_ in maps}:
        layers = [map_.layer for map_ in maps if map_.layer is not None]
        raise unknown_name("Layer", layer, layers, more="No map of it was made.")
    candidates = [
        map_
        for map_ in maps
        if method_name in (None, map_.method) and (layer is None or map_.layer in (None, layer))
    ]
    selected = [
        target is None or _class_or_index(map_, sample, index) == target
        for map_ in candidates
        for index in range(map_.values.shape[1])
    ]
    if not any(selected):
        raise InputError(
            f"There is no map of method={method!r}, layer={layer!r}, target={target!r}; there are "
            f"{', '.join(sorted({map_.method for map_ in maps}))} of {_list_targets(maps, sample)}."
        )
    grid_space = tuple(maps[0].values.shape[2:]) if space is None else space
    on_grid = maps_on_grid(candidates, grid_space, sample=sample, input_space=input_space)
    return [
        scene_map
        for scene_map, is_selected in zip(scene_maps(on_grid), selected, strict=True)
        if is_selected
    ]


def _class_or_index(map_: AttentionMap, sample: int, index: int) -> int:
    """Return the class of one of a map's targets, or the target's index if it is no class."""
    classes = map_.target.classes
    return index if classes is None else int(classes[sample, index])


def _list_targets(maps: Sequence[AttentionMap], sample: int) -> str:
    numbers = {
        _class_or_index(map_, sample, index)
        for map_ in maps
        for index in range(map_.values.shape[1])
    }
    return "target " + ", ".join(str(number) for number in sorted(numbers))


def _map_from_array(array: Any) -> AttentionMap:
    values = to_map(array)
    if values.ndim in (1, 2, 3):
        values = values[None, None]
    elif values.ndim not in (4, 5):
        raise InputError(
            f"An array of maps is [*space] or [batch, targets, *space], not {list(values.shape)}."
        )
    target = ResolvedTarget("", "segmentation")  # placeholders: an array does not say its target
    signed = bool((values < 0).any())
    # from_numpy needs positive strides, which arrays flipped by nibabel do not have
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return AttentionMap(tensor, _UNNAMED, None, target, signed)
