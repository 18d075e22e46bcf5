"""Build the scene of one sample: its image, its maps on the image's grid, mask and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcam.files.image import Image
from medcam.maps import AttentionMap
from medcam.methods import MethodLike
from medcam.views.scene.images import displayed_array, image_of, labels_of, mask_of
from medcam.views.scene.selection import select_scene_maps
from medcam.views.scene.values import Scene


def scene_of(
    maps: Sequence[AttentionMap],
    image: object = None,
    *,
    inputs: Tensor | None = None,
    affine: object = None,
    mask: object = None,
    segmentation: object = None,
    sample: int = 0,
    target: int | None = None,
    method: MethodLike | None = None,
    layer: str | None = None,
    **attributes: Any,
) -> tuple[Scene, Image | None]:
    """Return the scene of one sample, and the image that it shows.

    All arguments but those described here are those of `medcam.montage`.

    Args:
        maps: The maps of one batch.
        image: The image to lay the maps over. None: ``inputs``; without these, the scene's image
            is blank and the returned image None.
        inputs: The model's input, on whose grid the maps lie, if it is known.
        affine: See `medcam.montage`.
        mask: See `medcam.montage`.
        segmentation: The labels that the model predicted, in any form that ``mask`` can have.
        sample: See `medcam.montage`.
        target: See `medcam.montage`.
        method: See `medcam.montage`.
        layer: See `medcam.montage`.
        **attributes: Further attributes of the `Scene`: ``name``, ``scores``, ``provenance``,
            ``modality``, ``sampling_rate``.
    """
    axes, batch = maps[0].values.ndim - 2, len(maps[0].values)
    source = inputs if image is None else image
    background = None
    if source is not None:
        background = image_of(source, axes, sample=sample, batch=batch, affine=affine)
    selected = select_scene_maps(
        maps, sample=sample, target=target, method=method, layer=layer,
        space=None if background is None else background.space,
        input_space=None if inputs is None else inputs.shape[2:],
    )  # fmt: skip
    scene_affine = affine if background is None else background.affine
    scene = Scene(
        attributes.pop("name", ""),
        _blank(selected[0].values) if background is None else displayed_array(background),
        selected,
        is_signal=axes == 1,
        is_stack=axes == 3 and any(item.is_stack for item in maps),
        affine=scene_affine if axes == 3 else None,  # type: ignore[arg-type]  # Scene validates it
        mask=None if mask is None else mask_of(mask, axes, sample=sample, batch=batch),
        segmentation=None
        if segmentation is None
        else labels_of(segmentation, axes, sample=sample, batch=batch),
        **attributes,
    )
    return scene, background


def _blank(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a blank image under a map: ``[*space]``, or for a signal ``[1, time]``."""
    return np.zeros_like(values if values.ndim > 1 else values[None])
