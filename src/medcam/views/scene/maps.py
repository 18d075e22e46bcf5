"""Convert attention maps to scene maps: one for each method, layer and target."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from medcam.maps import AttentionMap
from medcam.views.scene.values import SceneMap


def scene_maps(
    maps: Iterable[AttentionMap], *, sample: int = 0, shape: Sequence[int] | None = None
) -> list[SceneMap]:
    """Return the maps of one sample, one for each method, layer and target.

    Args:
        maps: The maps, e.g. ``explanation.maps.values()``.
        sample: The sample's index in the batch.
        shape: The extents of the image, to which the maps are resampled. None: they keep their
            own.

    Example:
        >>> import torch, medcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten())
        >>> explanation = medcam.explain(net, torch.ones(1, 1, 8, 8), target=1)
        >>> maps = scene_maps(explanation.maps.values())
        >>> [(scene_map.method, scene_map.layer, scene_map.target) for scene_map in maps]
        [('Grad-CAM', '0', 'class 1')]
    """
    converted = []
    for map_ in maps:
        only = map_.values[sample : sample + 1].float()
        selected = dataclasses.replace(map_, values=only, channels=None)
        values = selected.values if shape is None else selected.at(shape)
        converted += [
            SceneMap(
                values[0, target].cpu().numpy(),
                map_.title,
                layer=map_.layer,
                target=_target_label(map_, sample, target),
                signed=map_.signed,
                units=f"raw {map_.title} units",
            )
            for target in range(values.shape[1])
        ]
    return converted


def _target_label(map_: AttentionMap, sample: int, target: int) -> str:
    """Return the description of one target, with its class or, of several, its number."""
    description = map_.target.description
    several = map_.values.shape[1] > 1
    if map_.target.classes is None:
        return f"{description}, {target + 1}" if several else description
    class_name = f"class {int(map_.target.classes[sample, target])}"
    if several or class_name in description:
        return class_name
    return f"{description}: {class_name}"
