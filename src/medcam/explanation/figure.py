"""`medcam.montage`: draw the maps of one sample as a figure for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medcam.errors import InputError
from medcam.explanation.explanation import Explanation
from medcam.methods import MethodLike
from medcam.views.colors import OPACITY
from medcam.views.montage.drawing import WindowLike, draw_montage
from medcam.views.montage.slices import PlaneName
from medcam.views.scene.scene import scene_of
from medcam.views.scene.selection import attention_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def montage(
    explanation_or_maps: object,
    image: object = None,
    *,
    affine: object = None,
    mask: object = None,
    sample: int = 0,
    target: int | None = None,
    method: MethodLike | None = None,
    layer: str | None = None,
    slices: int | Sequence[int] | None = None,
    plane: PlaneName = "auto",
    window: WindowLike | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
    threshold: float = 0.0,
    columns: int | None = None,
    title: str | None = None,
    sampling_rate: float | None = None,
) -> Figure:
    """Return the maps of one sample as a figure: rows of maps, columns of slices.

    A volume is drawn as a row of slices of the image and a row for each map. The slices are spread
    over the region of the maps, and labelled with their position in mm. They have the radiological
    orientation (the patient's right is on the left) and the voxels' true proportions; empty margins
    are cropped. A picture is drawn as image, map and overlay side by side.

    A 1D signal is drawn as curves, a strip for each channel, coloured by the attention.

    More than six maps (``layer="full"``), or ``slices=1``, are drawn as one tile per map, in the
    order of the layers in the model. All tiles show the slice with the most attention, and each has
    its own colour scale.

    The colours are ``inferno`` from 0 to the 99.9th percentile of a map, or ``coolwarm`` symmetric
    about 0 for a signed map; the opacity grows with the magnitude. The global state of pyplot is
    not changed. Panels can be found by ``axes.get_gid()`` ("image:axial:45", "map:0:axial:45",
    "colorbar:1"), and the artists in them by their gids "image", "map" and "mask". The axes are in
    mm, or in voxels if the voxel size is unknown.

    Args:
        explanation_or_maps: The result of `medcam.explain`; an `AttentionMap`, several, or a
            mapping of them; or an array of maps ``[*space]`` or ``[batch, targets, *space]``.
        image: The image under the maps: a path, an `Image` of `medcam.files`, an array or tensor, a
            MetaTensor. None: the input of the explanation; the maps alone if that is unknown.
        affine: 4x4, from voxel indices to RAS+ mm. None: the image's own. Without an affine, the
            figure shows neither sides of the body nor millimetres.
        mask: A region, 0/1, drawn as a white outline; a path, or as `image`.
        sample: The index of the sample in the batch.
        target: Draw only the maps of this class; for maps without classes, the index of the target.
        method: Draw only the maps of this method.
        layer: Draw only the maps of this layer.
        slices: The largest number of slices, or the indices of the slices in the image. None: six.
        plane: "axial", "coronal", "sagittal" or "all". "auto": the acquisition plane of thick
            slices, otherwise axial.
        window: The grey values of black and white: two numbers, or "lung", "soft tissue", "bone" or
            "brain" in Hounsfield units. None: "soft tissue" for CT, otherwise from the 0.5th to the
            99.5th percentile.
        colormap: The name of a matplotlib colormap, for all maps.
        opacity: The opacity of the strongest colour, in [0, 1].
        threshold: The share of the strongest colour below which maps are hidden, in [0, 1].
        columns: The number of panels side by side; longer rows are wrapped.
        title: The title of the figure.
        sampling_rate: Of a 1D signal, the number of samples in a second, for the time axis. None:
            the axis counts samples.

    Returns:
        A matplotlib figure on an Agg canvas, to be restyled or saved. The same maps give the same
        bytes.

    Raises:
        InputError: An argument does not fit; the message says what is allowed.
        MaskError: The mask has another shape, or is not 0/1.
        UnknownNameError: There is no such layer, method, plane, window or colormap.

    Example:
        >>> import numpy as np
        >>> volume = np.zeros((8, 9, 10))
        >>> volume[3:5, 4:6, 2:7] = 1
        >>> figure = montage(volume, volume, affine=np.diag([1, 1, 4, 1.0]), slices=3)
        >>> [axes.get_gid() for axes in figure.axes][:4]
        ['image:axial:2', 'image:axial:4', 'image:axial:6', 'map:0:axial:2']
        >>> figure.axes[0].get_label()
        'image, axial, S 8.0 mm'
    """
    explanation = explanation_or_maps if isinstance(explanation_or_maps, Explanation) else None
    if explanation is not None and len(explanation.images) > 1:
        raise InputError(
            f"There are maps on the images {list(explanation.images)}: draw one, "
            f"montage(explanation.of_image({next(iter(explanation.images))!r}))."
        )
    maps = attention_maps(explanation_or_maps if explanation is None else explanation.maps)
    scene, background = scene_of(
        maps, image, inputs=None if explanation is None else explanation.inputs, affine=affine,
        mask=mask, sample=sample, target=target, method=method, layer=layer,
        sampling_rate=sampling_rate,
    )  # fmt: skip
    return draw_montage(
        scene, maps_only=background is None,
        spacing=None if background is None else background.spacing, slices=slices, plane=plane,
        window=window, colormap=colormap, opacity=opacity, threshold=threshold, columns=columns,
        title=title,
    )  # fmt: skip
