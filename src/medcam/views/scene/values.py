"""`Scene`: an image, its maps, and what is known about them; `SceneMap`: one of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, MaskError
from medcam.files.arrays import robust_max, to_array, to_map
from medcam.files.formats.nifti import voxel_sizes
from medcam.views.scene.grid import Grid, picture_grid, volume_grid


@dataclass(frozen=True, eq=False)
class SceneMap:
    """One map of a scene.

    Attributes:
        values: The raw map on the image's grid, ``[X, Y, Z]`` or ``[H, W]``, finite; kept as
            float32.
        method: The method, as it is shown, e.g. ``"Grad-CAM"``.
        layer: The layer; None for methods without one.
        target: What was explained, in words.
        signed: Whether negative values mean something: a scale symmetric about zero.
        units: What the numbers are, shown beside the colour bar.
        top: The value of the strongest colour, e.g. one for a whole cohort. None: the map's own
            99.9th percentile of its non-zero magnitudes.

    Example:
        >>> SceneMap(np.array([[0.0, 2.0]]), "Grad-CAM").scale_top
        2.0
    """

    values: NDArray[np.float32]
    method: str
    layer: str | None = None
    target: str = ""
    signed: bool = False
    units: str = "raw units"
    top: float | None = None

    def __post_init__(self) -> None:
        what = f"The map of {self.method!r}"
        object.__setattr__(self, "values", to_map(self.values, what))
        if self.top is not None and not (np.isfinite(self.top) and self.top > 0):
            raise InputError(
                f"{what} has top={self.top}; the value of the strongest colour is above 0."
            )

    @property
    def scale_top(self) -> float:
        """The value of the strongest colour; 1 for a map of zeros."""
        return self.top or robust_max(self.values) or 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """One case as it is drawn: an image, its maps, mask and prediction.

    Attributes:
        name: The case's name: the title.
        image: ``[X, Y, Z]`` as nibabel and MONAI read it, ``[H, W]`` or ``[H, W, 3]``; real numbers
            of any range. Values that are not finite are drawn black.
        maps: The maps, on the image's grid.
        affine: From voxel indices to RAS+ millimetres, 4x4, of a volume. None: sides and
            millimetres are not known, and none are shown. A 2D image has none.
        mask: A region, 0/1, on the image's grid, drawn as a white line.
        segmentation: What the model predicted, labels on the image's grid, whole numbers from 0 to
            65535; their borders are drawn as a green line.
        scores: The rows of a table, one mapping a row.
        provenance: How the maps came about; nested mappings and lists are laid out.
        modality: ``"CT"`` names the grey values Hounsfield units and offers their windows. None:
            volumes that hold air and tissue in Hounsfield units are taken for CT.

    Raises:
        InputError: An image, an affine or a map of another shape, or an affine for a 2D image.
        MaskError: A mask or segmentation of another shape, or not 0/1, or not labels.

    Example:
        >>> scene = Scene("a", np.zeros((2, 3)), [SceneMap(np.ones((2, 3)), "Grad-CAM")])
        >>> scene.is_volume, scene.space
        (False, (2, 3))
    """

    name: str
    image: NDArray[Any]
    maps: Sequence[SceneMap] = ()
    affine: NDArray[np.float64] | None = None
    mask: NDArray[Any] | None = None
    segmentation: NDArray[Any] | None = None
    scores: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    modality: str | None = None

    def __post_init__(self) -> None:
        image = to_array(self.image, "The image")
        if image.size == 0 or image.ndim not in (2, 3):
            raise InputError(
                f"The image of a report is [X, Y, Z], [H, W] or [H, W, 3], not {list(image.shape)}."
            )
        image = image.astype(np.uint8) if image.dtype == np.bool_ else image
        object.__setattr__(self, "image", image)
        if self.affine is not None:
            if not self.is_volume:
                raise InputError("A 2D image has no affine: leave it out.")
            voxel_sizes(self.affine)  # refuses what cannot place voxels
            affine = to_array(self.affine, "The affine").astype(np.float64).reshape(4, 4)
            object.__setattr__(self, "affine", affine)
        for shown in self.maps:
            if shown.values.shape != self.space:
                raise InputError(
                    f"The map of {shown.method!r} is {list(shown.values.shape)}, the image "
                    f"{list(self.space)}: bring it to the image's grid, explain(shape='input')."
                )
        if self.mask is not None:
            object.__setattr__(self, "mask", _mask(self.mask, self.space))
        if self.segmentation is not None:
            object.__setattr__(self, "segmentation", _labels(self.segmentation, self.space))

    @property
    def is_volume(self) -> bool:
        """Whether the image is 3D. ``[H, W, 3]`` is a colour picture unless there is an affine."""
        coloured = self.image.shape[-1] == 3 and self.affine is None
        return self.image.ndim == 3 and not coloured

    @property
    def space(self) -> tuple[int, ...]:
        """The extents of the grid, without colour channels."""
        return self.image.shape if self.is_volume else self.image.shape[:2]

    @property
    def grid(self) -> Grid:
        """The layout of the image for the eye."""
        return volume_grid(self.space, self.affine) if self.is_volume else picture_grid(self.space)


def _mask(given: object, space: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = _on_grid(given, space, "mask")
    if mask.dtype != np.bool_ and not np.isin(mask, (0, 1)).all():
        raise MaskError("The mask is not 0/1: choose one class of it, mask == k.")
    return mask.astype(np.bool_)


def _labels(given: object, space: tuple[int, ...]) -> NDArray[np.uint16]:
    found = _on_grid(given, space, "segmentation")
    labels = found.astype(np.uint16)
    if not np.array_equal(labels, found):
        raise MaskError(
            "The segmentation does not hold labels, whole numbers from 0 to 65535: give the class "
            "of each voxel, logits.argmax(1)."
        )
    return labels


def _on_grid(given: object, space: tuple[int, ...], what: str) -> NDArray[Any]:
    values = to_array(given, f"The {what}")
    if values.shape != space:
        raise MaskError(
            f"The {what} is {list(values.shape)}, the image {list(space)}: they must be equal."
        )
    return values
