"""One map, one file: a picture of a 2D map, a float volume of a 3D one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from medcam.errors import InputError
from medcam.files.arrays import to_map
from medcam.files.formats.nifti import save_nifti
from medcam.files.formats.png import save_png
from medcam.maps import AttentionMap
from medcam.views.overlays import grey_picture, overlay

_VOLUME = (".nii.gz", ".nii")
# Endings that are formats; any other part after a dot belongs to the name: 'layer4.0'.
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".pdf")
_VOLUMES = (".nii", ".gz", ".hdr", ".img", ".mgh", ".mgz", ".mha", ".mhd", ".nrrd", ".dcm")
_OTHERS = (".npy", ".npz", ".pt", ".pth", ".pkl", ".h5", ".txt", ".csv", ".json", ".xlsx", ".zip")
_FORMATS = frozenset(_PICTURES + _VOLUMES + _OTHERS)


def save(
    attention_map: object,
    filename: str | os.PathLike[str],
    heatmap: object = True,
    raw_input: object = None,
    *,
    reference: object = None,
    colormap: str | None = None,
    signed: bool | None = None,
) -> Path:
    """Saves one map: a 2D one as a PNG picture, a 3D one as float32 NIfTI with its raw values.

    Args:
        attention_map: ``[H, W]`` or ``[X, Y, Z]``, or an `AttentionMap` of one sample and one
            target; leading axes of length 1 are dropped (but kept
            as X where the filename or a reference says that it is a volume).
        filename: Where to; folders are created. ``.png`` or ``.nii.gz`` is added if missing.
        heatmap: 2D: in colour, over the raw input if there is one. False: the map alone in grey,
            black to white, or about mid-grey if it has negative values.
        raw_input: The image under the map, see :func:`medcam.views.overlays`; as the third argument
            by position it is taken for what it is. 3D: its affine, if it
            has one and the map's shape, is the reference when none is given.
        reference: 3D: where the voxels lie, see :func:`medcam.files.save_nifti`.
        colormap: 2D: a name of matplotlib's, for heatmaps.
        signed: 2D: whether negative values mean something. None: whether there is one.

    Returns:
        The path of the file.

    Raises:
        InputError: Another number of axes, NaN, another ending than ``.png`` (2D) or ``.nii.gz``,
            ``.nii`` (3D), or a reference of another shape.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(torch.rand(1, 1, 8, 8), f"{folder}/map", raw_input=torch.rand(1, 64, 64)).name
        'map.png'
    """
    path = Path(filename)
    if raw_input is None and not isinstance(heatmap, bool | int | np.bool_):
        heatmap, raw_input = True, heatmap  # as some versions of the original package take it
    if isinstance(attention_map, AttentionMap):
        signed = attention_map.signed if signed is None else signed
        attention_map = _single(attention_map)
    values = to_map(attention_map)
    volume = reference is not None or path.name.lower().endswith(_VOLUME)
    while values.ndim > (3 if volume else 2) and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        path = _with_ending(path, (".png",), "2D")
        if heatmap:
            return save_png(path, overlay(values, raw_input, signed=signed, colormap=colormap))
        return save_png(path, grey_picture(values, signed=signed))
    if values.ndim == 3:
        path = _with_ending(path, _VOLUME, "3D")
        if reference is None and _shares_grid(raw_input, values.shape):
            reference = raw_input
        return save_nifti(path, values, reference)
    raise InputError(
        f"A map to save is [H, W] or [X, Y, Z], not {list(values.shape)}: save each sample and "
        "channel by itself (a 1D map: numpy.save)."
    )


def _with_ending(path: Path, allowed: tuple[str, ...], kind: str) -> Path:
    if path.name.lower().endswith(allowed):
        return path
    if path.suffix.lower() in _FORMATS:
        raise InputError(
            f"'{path.name}': a {kind} map is saved as {' or '.join(allowed)}, "
            f"not '{path.suffix}'. Name it so, or leave the ending out."
        )
    return path.with_name(path.name + allowed[0])


def _shares_grid(raw_input: object, shape: tuple[int, ...]) -> bool:
    """Whether a raw input knows where it lies and has the map's voxels."""
    if not hasattr(raw_input, "affine"):
        return False
    own = tuple(getattr(raw_input, "shape", ()))
    return (
        own[-3:] if isinstance(raw_input, torch.Tensor) else own[:3]
    ) == shape  # MONAI: C, X, ..


def _single(attention_map: AttentionMap) -> torch.Tensor:
    """The values of a map that holds one sample and one target."""
    batch, targets = attention_map.values.shape[:2]
    if batch * targets != 1:
        raise InputError(
            f"The map holds {batch} sample(s) and {targets} target(s): save one at a time, "
            "explanation.map.values[sample, target]."
        )
    return attention_map.values[0, 0]
