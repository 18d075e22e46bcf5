"""Build the scene of one sample: its image, its maps on the image's grid, mask and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medcam.files.image import Image
from medcam.maps import AttentionMap
from medcam.methods import MethodLike
from medcam.views.scene.images import displayed, image_of, labels_of, mask_of
from medcam.views.scene.selection import maps_of
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
    **about: Any,
) -> tuple[Scene, Image | None]:
    """Return the scene of one sample, and its image; without one the scene's image is blank.

    Args:
        maps: The maps of one batch.
        image: As all others below, see `medcam.montage`. None: ``inputs``.
        inputs: The input that the maps lie on, if it is known.
        affine: See there.
        mask: See there.
        segmentation: What the model predicted, labels; given as the mask is.
        sample: See there.
        target: See there.
        method: See there.
        layer: See there.
        **about: Other attributes of the scene: ``name``, ``scores``, ``provenance``, ``modality``.
    """
    axes, batch = maps[0].values.ndim - 2, len(maps[0].values)
    source = inputs if image is None else image
    under = None
    if source is not None:
        under = image_of(source, axes, sample=sample, batch=batch, affine=affine)
    shown = maps_of(
        maps, sample=sample, target=target, method=method, layer=layer,
        space=None if under is None else under.space,
        covers=None if inputs is None else inputs.shape[2:],
    )  # fmt: skip
    place = affine if under is None else under.affine
    scene = Scene(
        about.pop("name", ""),
        np.zeros(shown[0].values.shape, np.float32) if under is None else displayed(under),
        shown,
        affine=place if axes == 3 else None,  # type: ignore[arg-type]  # it is checked there
        mask=None if mask is None else mask_of(mask, axes, sample=sample, batch=batch),
        segmentation=None
        if segmentation is None
        else labels_of(segmentation, axes, sample=sample, batch=batch),
        **about,
    )
    return scene, under
