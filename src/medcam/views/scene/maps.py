"""Attention maps as what a scene shows: one entry for each method, layer and target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medcam.maps import AttentionMap, resample
from medcam.views.scene.values import SceneMap


def scene_maps(
    maps: Iterable[AttentionMap], *, sample: int = 0, shape: Sequence[int] | None = None
) -> list[SceneMap]:
    """Return the maps of one sample, one for each method, layer and target.

    Args:
        maps: The maps, e.g. ``explanation.maps.values()``.
        sample: Its place in the batch.
        shape: The extents of the image, to which maps of another size are resampled. None: they
            stay as they are.

    Example:
        >>> import torch, medcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten())
        >>> explanation = medcam.explain(net, torch.ones(1, 1, 8, 8), target=1)
        >>> shown = scene_maps(explanation.maps.values())
        >>> [(item.method, item.layer, item.target) for item in shown]
        [('Grad-CAM', '0', 'class 1')]
    """
    shown = []
    for one in maps:
        values = one.values[sample : sample + 1].float()
        if shape is not None:
            values = resample(values, shape)
        shown += [
            SceneMap(
                values[0, target].cpu().numpy(),
                one.title,
                layer=one.layer,
                target=_label(one, sample, target),
                signed=one.signed,
                units=f"raw {one.title} units",
            )
            for target in range(values.shape[1])
        ]
    return shown


def _label(one: AttentionMap, sample: int, target: int) -> str:
    """Return what a map is of, in words: with the class if it is one."""
    words = one.target.description
    if one.target.classes is None:
        return words if one.values.shape[1] == 1 else f"{words}, {target + 1}"
    named = f"class {int(one.target.classes[sample, target])}"
    return named if one.values.shape[1] > 1 or named in words else f"{words}: {named}"
