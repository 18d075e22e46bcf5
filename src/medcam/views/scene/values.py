"""Values of a scene: `Scene`, an image with its maps and their details, and `SceneMap`, a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, MaskError
from medcam.files.arrays import robust_max, to_array, to_map
from medcam.files.formats.nifti import voxel_sizes
from medcam.views.scene.grid import Grid, picture_grid, stack_grid, volume_grid


@dataclass(frozen=True, eq=False)
class SceneMap:
    """One map of a scene.

    Attributes:
        values: The raw map on the image's grid, ``[X, Y, Z]``, ``[H, W]`` or ``[time]``, finite;
            kept as float32.
        method: The method's name for display, e.g. ``"Grad-CAM"``.
        layer: The layer; None for methods without one.
        target: What was explained, in words.
        signed: Whether negative values carry meaning; the colour scale is then symmetric about 0.
        units: The unit of the values, shown beside the colour bar.
        top: The value of the strongest colour, e.g. one for all cases of a cohort. None: the 99.9th
            percentile of the map's non-zero magnitudes.

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
        name = f"The map of {self.method!r}"
        object.__setattr__(self, "values", to_map(self.values, name))
        if self.top is not None and not (np.isfinite(self.top) and self.top > 0):
            raise InputError(
                f"{name} has top={self.top}: the value of the strongest colour must be above 0."
            )

    @property
    def scale_top(self) -> float:
        """The value of the strongest colour; 1 for a map of zeros."""
        return self.top or robust_max(self.values) or 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its maps, mask and prediction on one grid, as it is to be drawn.

    Attributes:
        name: The title, usually the name of the case.
        image: ``[X, Y, Z]`` as nibabel and MONAI read it, ``[H, W]`` or ``[H, W, 3]``; real numbers
            of any range. Values that are not finite are drawn black. Of a signal, ``[channels,
            time]``.
        maps: The maps, on the image's grid.
        affine: From voxel indices to RAS+ mm, 4x4, of a volume. None: the orientation is unknown,
            and neither sides nor positions in mm are shown. A 2D image has no affine.
        mask: A region, 0/1, on the image's grid, drawn as a white line.
        segmentation: The labels that the model predicted, on the image's grid, integers from 0 to
            65535; their borders are drawn as a green line.
        scores: The rows of the table of scores, one mapping each.
        check: What a check found of the maps, as `medcam.trust.TrustCheck.to_dict` returns it.
        prediction: What the network predicted, as `medcam.Prediction.to_dict` returns it.
        provenance: How the maps were made; may hold nested mappings and lists.
        modality: ``"CT"``: values are Hounsfield units, and the grey windows of CT can be chosen.
            None: the same if the values look like Hounsfield units, see `is_ct`.
        is_signal: Whether the image is a 1D signal, such as an ECG.
        is_stack: Whether the first axis of a volume is pictures (views, slices of a bag) that are
            shown one by one.
        sampling_rate: Of a signal, the number of samples in a second. None: unknown, so the time
            axis counts samples.

    Raises:
        InputError: The shape of the image, the affine or a map does not fit, or a 2D image has an
            affine.
        MaskError: The mask or segmentation is not on the image's grid, or the mask is not 0/1, or
            the segmentation does not hold labels.

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
    check: Mapping[str, Any] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    modality: str | None = None
    is_signal: bool = False
    is_stack: bool = False
    sampling_rate: float | None = None

    def __post_init__(self) -> None:
        image = to_array(self.image, "The image")
        if image.size == 0 or image.ndim not in ((2,) if self.is_signal else (2, 3)):
            raise InputError(
                f"The image of a report is [X, Y, Z], [H, W] or [H, W, 3], and a signal [channels, "
                f"time], not {list(image.shape)}."
            )
        rate = self.sampling_rate
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
            raise InputError(
                f"sampling_rate={rate!r}: give the number of samples in a second, above 0."
            )
        image = image.astype(np.uint8) if image.dtype == np.bool_ else image
        object.__setattr__(self, "image", image)
        if self.affine is not None:
            if not self.is_volume:
                raise InputError("A 2D image has no affine: leave it out.")
            voxel_sizes(self.affine)  # raises if the affine is not 4x4, finite and invertible
            affine = to_array(self.affine, "The affine").astype(np.float64).reshape(4, 4)
            object.__setattr__(self, "affine", affine)
        for scene_map in self.maps:
            if scene_map.values.shape != self.space:
                raise InputError(
                    f"The map of {scene_map.method!r} is {list(scene_map.values.shape)}, the image "
                    f"{list(self.space)}: bring it to the image's grid, explain(shape='input')."
                )
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, self.space))
        if self.segmentation is not None:
            labels = _checked_labels(self.segmentation, self.space)
            object.__setattr__(self, "segmentation", labels)

    @property
    def is_volume(self) -> bool:
        """Whether the image is 3D; ``[H, W, 3]`` without an affine is a colour picture."""
        coloured = self.image.shape[-1] == 3 and self.affine is None and not self.is_stack
        return self.image.ndim == 3 and not coloured

    @property
    def space(self) -> tuple[int, ...]:
        """The extents of the image without colour channels, of a signal without channels."""
        if self.is_signal:
            return self.image.shape[1:]
        return self.image.shape if self.is_volume else self.image.shape[:2]

    @property
    def grid(self) -> Grid:
        """The grid on which the image is shown."""
        if not self.is_volume:
            return picture_grid(self.space)
        return (stack_grid if self.is_stack else volume_grid)(self.space, self.affine)


def _checked_mask(mask: object, space: tuple[int, ...]) -> NDArray[np.bool_]:
    values = _checked_array(mask, space, "mask")
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise MaskError("The mask is not 0/1: choose one class of it, mask == k.")
    return values.astype(np.bool_)


def _checked_labels(segmentation: object, space: tuple[int, ...]) -> NDArray[np.uint16]:
    values = _checked_array(segmentation, space, "segmentation")
    labels = values.astype(np.uint16)
    if not np.array_equal(labels, values):
        raise MaskError(
            "The segmentation does not hold labels, whole numbers from 0 to 65535: give the class "
            "of each voxel, logits.argmax(1)."
        )
    return labels


def _checked_array(values: object, space: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return values as an array, or raise `MaskError` if they are not on the image's grid."""
    array = to_array(values, f"The {name}")
    if array.shape != space:
        raise MaskError(
            f"The {name} is {list(array.shape)}, the image {list(space)}: they must be equal."
        )
    return array
