"""`medcam.montage`: the maps of one sample as a figure for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
) -> Figure:
    """Return the maps of one sample as a figure: rows of maps, columns of slices.

    Volumes: a row of slices of the image, and one for each map, spread over where the maps are,
    each with its position in mm. Slices lie as radiologists look at them (the patient's right on
    the left) and with the voxels' true proportions; margins where nothing is are out of view.
    Pictures: image, map and overlay side by side. More than six maps (``layer="full"``), or
    ``slices=1``: one tile for each map, in the model's order, all on the slice where most of them
    is, each in colours of its own scale: which depth looks where.

    Colours: ``inferno`` from 0 to the 99.9th percentile of a map, ``coolwarm`` symmetric about 0
    for a signed one; the opacity grows with the magnitude. No state of pyplot's is touched. Panels
    can be found by ``axes.get_gid()`` ("image:axial:45", "map:0:axial:45", "colorbar:1"), the
    artists in them by theirs ("image", "map", "mask"); axes are in mm (voxels, where no size is
    known).

    Args:
        explanation_or_maps: What `medcam.explain` gave; one `AttentionMap`, several, or a mapping
            of them; or an array of maps ``[*space]`` or ``[batch, targets, *space]``.
        image: What the maps are laid over: a path, an `Image` of `medcam.files`, an array or
            tensor, a MetaTensor. None: the input that the explanation was made of; the maps alone
            if it is not known.
        affine: 4x4, from voxel indices to RAS+ mm. None: the image's own, if it has one; else sides
            and millimetres are not known, and none are shown.
        mask: A region, 0/1, drawn as a white line; a path, or as `image`.
        sample: Which one of the batch.
        target: Only the maps of this class (of maps of no class: this one of the targets).
        method: Only this method's maps.
        layer: Only this layer's maps.
        slices: How many slices, at most; or which, by their indices in the image. None: six.
        plane: "axial", "coronal", "sagittal" or "all". "auto": the plane that thick slices were
            taken in, else the axial one.
        window: Black and white: two values, or "lung", "soft tissue", "bone" or "brain" in
            Hounsfield units. None: that of soft tissue for CT, else from the 0.5th to the 99.5th
            percentile.
        colormap: A name of matplotlib's, for all maps.
        opacity: That of the strongest colour, in [0, 1].
        threshold: The share of the strongest colour below which maps are hidden, in [0, 1].
        columns: How many panels stand side by side; a row that has more goes on in the next line.
        title: A line above all.

    Returns:
        A matplotlib figure on an Agg canvas, to be restyled or saved. The same maps give the same
        bytes.

    Raises:
        InputError: Something given does not fit; the message says what is allowed.
        MaskError: A mask of another shape, or not 0/1.
        UnknownNameError: No such layer, method, plane, window or colormap.

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
    maps = attention_maps(explanation_or_maps if explanation is None else explanation.maps)
    scene, under = scene_of(
        maps, image, inputs=None if explanation is None else explanation.inputs, affine=affine,
        mask=mask, sample=sample, target=target, method=method, layer=layer,
    )  # fmt: skip
    return draw_montage(
        scene, bare=under is None, spacing=None if under is None else under.spacing, slices=slices,
        plane=plane, window=window, colormap=colormap, opacity=opacity, threshold=threshold,
        columns=columns, title=title,
    )  # fmt: skip
