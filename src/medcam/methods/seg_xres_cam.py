"""Seg-XRes-CAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError

_POOL: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("mean", 2): F.avg_pool2d,
    ("mean", 3): F.avg_pool3d,
    ("max", 2): F.max_pool2d,
    ("max", 3): F.max_pool3d,
    ("mean", 1): F.avg_pool1d,
    ("max", 1): F.max_pool1d,
}


def seg_xres_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    pool: int | None = 2,
    pooling: Literal["mean", "max"] = "mean",
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return Seg-XRes-CAM, between HiResCAM and Grad-CAM, ``ReLU(Σ_k up(pool_h(G^k)) ⊙ A^k)``.

    Hasany et al., CVPR Workshops 2023. ``h = 1`` is HiResCAM with a ReLU; pooling over the whole
    layer by the mean is Grad-CAM.

    Args:
        activations: The output of the layer.
        gradients: The gradients of the score with respect to the activations.
        pool: The extent h of the pooling windows in voxels of the layer; None is the whole layer.
            Windows at the border may be smaller.
        pooling: "mean" or "max".
        rectify: Whether the last ReLU is applied.

    Raises:
        InputError: ``pool`` or ``pooling`` is not accepted.
    """
    space = gradients.shape[2:]
    if (pool is not None and pool < 1) or (pooling, len(space)) not in _POOL:
        raise InputError(
            f"pool={pool!r}, pooling={pooling!r}: give pool= at least 1 voxel, or None for the "
            "whole layer, and pooling= 'mean' or 'max'."
        )
    window = [extent if pool is None else min(pool, extent) for extent in space]
    extra: dict[str, Any] = {"count_include_pad": False} if pooling == "mean" else {}
    pooled = _POOL[pooling, len(space)](gradients, window, ceil_mode=True, **extra)
    for axis, (size, extent) in enumerate(zip(window, space, strict=True), start=2):
        pooled = pooled.repeat_interleave(size, axis).narrow(axis, 0, extent)
    cam = (pooled * activations).sum(1)
    return cam.relu() if rectify else cam
