"""`medcam.save`: save one map to one file, a picture or a volume."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation
from medcam.files.arrays import to_map
from medcam.files.atomic import write_atomically
from medcam.files.formats.nifti import reference_for_layer, save_nifti
from medcam.files.formats.npy import save_npy
from medcam.files.formats.pictures import save_tiff
from medcam.files.formats.png import save_png
from medcam.maps import AttentionMap, resample_array
from medcam.views.figures import save_figure
from medcam.views.overlays import ChannelOrder, grey_picture, overlay
from medcam.views.scene.images import image_of
from medcam.views.scene.maps import scene_maps
from medcam.views.scene.values import Scene, SceneMap
from medcam.views.signals.drawing import draw_curves

_PICTURE_ENDINGS = (".png", ".tif", ".tiff", ".npy")
_VOLUME_ENDINGS = (".nii.gz", ".nii")
_SIGNAL_ENDINGS = (".png", ".npy")
_RAW_ENDINGS = (".tif", ".tiff", ".npy")  # of pictures and signals: values that are not drawn
_VOLUME_AXES = 3
# Endings of file formats, which are refused unless they are one of the above. Any other text after
# a dot is part of the name, as in 'layer4.0'.
_FORMATS = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".pdf"),
    *(".nii", ".gz", ".hdr", ".img", ".mgh", ".mgz", ".mha", ".mhd", ".nrrd", ".dcm"),
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".h5", ".txt", ".csv", ".json", ".xlsx", ".zip"),
)


def save(
    attention_map: object,
    filename: str | os.PathLike[str],
    heatmap: object = True,
    raw_input: object = None,
    *,
    reference: object = None,
    colormap: str | None = None,
    signed: bool | None = None,
    raw_input_order: ChannelOrder = "rgb",
) -> Path:
    """Save one map: a 2D map as a PNG picture, a 3D map as float32 NIfTI with its raw values.

    A map of a 1D signal is saved as a PNG curve. The raw values of a 2D map are saved as ``.tif``
    (float32, as by `medcam.Explanation.save`) or ``.npy``, those of a 1D map as ``.npy``. Arguments
    that say how a map is drawn have no effect on them.

    Args:
        attention_map: ``[H, W]``, ``[X, Y, Z]`` or ``[time]``, or an `AttentionMap` of one sample
            and one target. Leading axes of size 1 are dropped; one is kept as X if the filename or
            a reference marks the map as a volume.
        filename: The path of the file; folders are created. ``.png`` or ``.nii.gz`` is added if
            missing.
        heatmap: 2D: True draws the map in colour, over the raw input if there is one. False draws
            the map alone in grey: from black to white, or with zero at mid-grey if it is signed. An
            array here is used as the raw input, as in some versions of the original package.
        raw_input: The image under a 2D map, as in `medcam.views.overlay`. 3D: the reference, if
            none is given and the image has an affine and the map's shape. 1D: the signal ``[time]``
            or ``[channels, time]``.
        reference: 3D: the position of the voxels, as in `medcam.files.save_nifti`.
        colormap: 1D and 2D: the name of a matplotlib colormap, for heatmaps.
        signed: 1D and 2D: whether the sign of the values has a meaning. None: that of an
            `AttentionMap`, otherwise whether there is a negative value.
        raw_input_order: 2D: the order of the raw input's three channels, "rgb", or "bgr" as
            ``cv2.imread`` returns them.

    Returns:
        The path of the file.

    Raises:
        InputError: The map has another number of axes or NaN, the filename has another ending than
            ``.png``, ``.tif``, ``.tiff``, ``.npy`` (2D), ``.nii.gz``, ``.nii`` (3D) or ``.png``,
            ``.npy`` (1D), or the reference has another shape.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(torch.rand(1, 1, 8, 8), f"{folder}/map", raw_input=torch.rand(1, 64, 64)).name
        'map.png'
    """
    path = Path(filename)
    if raw_input is None and not isinstance(heatmap, bool | int | np.bool_):
        heatmap, raw_input = True, heatmap
    is_raw = path.suffix.lower() in _RAW_ENDINGS
    if is_raw:
        raw_input = None
    source = attention_map
    if isinstance(attention_map, Explanation):
        raise InputTypeError(
            "One map is saved, not a whole explanation: medcam.save(explanation.map, ...). "
            "explanation.save(prefix) writes all maps with pictures, a report and the record."
        )
    if isinstance(attention_map, AttentionMap):
        signed = attention_map.signed if signed is None else signed
        attention_map, reference = _placed(attention_map, raw_input, reference)
        attention_map = _only_values(attention_map)
    values = to_map(attention_map)
    volume = reference is not None or path.name.lower().endswith(_VOLUME_ENDINGS)
    while values.ndim > (3 if volume else 2) and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 1:
        path = _with_ending(path, _SIGNAL_ENDINGS, "1D")
        if is_raw:
            return save_npy(path, values)
        return _save_curve(path, _named_map(source, values, signed), raw_input, colormap)
    if values.ndim == 2:
        path = _with_ending(path, _PICTURE_ENDINGS, "2D")
        if is_raw:
            return (save_npy if path.suffix.lower() == ".npy" else save_tiff)(path, values)
        if heatmap:
            picture = overlay(
                values, raw_input, signed=signed, colormap=colormap,
                raw_input_order=raw_input_order,
            )  # fmt: skip
            return save_png(path, picture)
        return save_png(path, grey_picture(values, signed=signed))
    if values.ndim == 3:
        path = _with_ending(path, _VOLUME_ENDINGS, "3D")
        if reference is None and _shares_grid(raw_input, values.shape):
            reference = raw_input
        return save_nifti(path, values, reference)
    raise InputError(
        f"A map to save is [time], [H, W] or [X, Y, Z], not {list(values.shape)}: save each sample "
        "and channel by itself."
    )


def _placed(
    item: AttentionMap, raw_input: object, reference: object
) -> tuple[AttentionMap, object]:
    """Return a map of a layer's own shape where its features lie.

    A picture is brought to the input's size before it is drawn over an image. A volume keeps its
    shape; its reference is the affine of the layer's cells.
    """
    if not item.on_layer or item.grid is None:
        return item, reference
    axes = len(item.input_space)
    if axes == _VOLUME_AXES and reference is not None:
        return item, reference_for_layer(reference, item.grid, item.input_space)
    if axes == _VOLUME_AXES or raw_input is None:
        return item, reference
    return replace(item, values=item.at(item.input_space), on_layer=False), reference


def _with_ending(path: Path, allowed: tuple[str, ...], kind: str) -> Path:
    """Return the path with an allowed ending, added if the path names no format."""
    if path.name.lower().endswith(allowed):
        return path
    if path.suffix.lower() in _FORMATS:
        raise InputError(
            f"'{path.name}': a {kind} map is saved as {', '.join(allowed[:-1])} or {allowed[-1]}, "
            f"not '{path.suffix}'. Name it so, or leave the ending out."
        )
    return path.with_name(path.name + allowed[0])


def _save_curve(path: Path, scene_map: SceneMap, raw_input: object, colormap: str | None) -> Path:
    """Write the map of a signal as a curve; without the signal, the curve is the map itself."""
    values = scene_map.values
    signal = values[None] if raw_input is None else image_of(raw_input, 1).array
    on_signal = replace(scene_map, values=resample_array(values, signal.shape[1:]))
    scene = Scene("", signal, [on_signal], is_signal=True)
    figure = draw_curves(scene, maps_only=raw_input is None, colormap=colormap)
    return write_atomically(path, lambda temporary: save_figure(figure, temporary))


def _named_map(attention_map: object, values: NDArray[np.float32], signed: bool | None) -> SceneMap:
    """Return a map to draw, with the method, layer and target of an `AttentionMap`."""
    if isinstance(attention_map, AttentionMap):
        return replace(scene_maps([attention_map])[0], values=values, signed=bool(signed))
    is_signed = bool((values < 0).any()) if signed is None else signed
    return SceneMap(values, "Attention map", signed=is_signed)


def _shares_grid(raw_input: object, shape: tuple[int, ...]) -> bool:
    """Return whether a raw input has an affine and the map's spatial shape."""
    if not hasattr(raw_input, "affine"):
        return False
    input_shape = tuple(getattr(raw_input, "shape", ()))
    # The channels of MONAI's MetaTensor are the first axis, those of a NIfTI image the last.
    space = input_shape[-3:] if isinstance(raw_input, torch.Tensor) else input_shape[:3]
    return space == shape


def _only_values(attention_map: AttentionMap) -> torch.Tensor:
    """Return the values of a map that holds one sample and one target."""
    batch, targets = attention_map.values.shape[:2]
    if batch * targets != 1:
        raise InputError(
            f"The map holds {batch} sample(s) and {targets} target(s): save one at a time, "
            "explanation.map.values[sample, target]."
        )
    return attention_map.values[0, 0]
