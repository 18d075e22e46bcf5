"""NRRD and MetaImage files, by SimpleITK: LPS millimetres and z, y, x arrays made RAS and x, y, z.

SimpleITK gives an image an origin and directions even if its file has none; where that would be a
guess (NRRD without an anatomical space, 2D images), the affine is None here, and maps keep what
the file has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, SaveError, require, warn
from medcam.files.atomic import write_atomically
from medcam.files.geometry import LPS, Affine, as_affine, is_sheared, spacing_of
from medcam.files.image import Image, one_volume

FORMATS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""The endings, and what ITK calls their formats."""

_SPACE = "NRRD_space"
_ANATOMICAL = "left-posterior-superior"  # ITK turns the other two (RAS, LAS) into this one


@dataclass(frozen=True)
class ItkGrid:
    """Where ITK has the voxels: LPS, x first; two or three entries per axis.

    Attributes:
        origin: The centre of the first voxel, mm.
        spacing: The voxel's extents, mm.
        direction: The axes' directions as columns, row by row.
    """

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


def read_itk(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Gives an NRRD or MetaImage file; see :func:`medcam.files.read_image`.

    The source is an `ItkGrid`. Components of a voxel (colours, vectors, frames) are volumes.

    Raises:
        InputError: Not such a file, damaged, complex, or of more axes than can be told apart.
        MissingPackageError: SimpleITK is not installed.
    """
    sitk = require("SimpleITK", extra="itk")
    try:
        image = sitk.ReadImage(str(path), imageIO=FORMATS[path.suffix.lower()])
        values = sitk.GetArrayFromImage(image)
    except RuntimeError as error:
        reason = _reason(error, path)
        raise InputError(f"'{path}' cannot be read: {reason} Is it cut off or damaged?") from error
    dimension, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    vector = components > 1
    values = np.moveaxis(values, -1, 0) if vector else values[None]
    values = values.transpose(0, *range(dimension, 0, -1))  # x, y, z[, t]
    if dimension not in (2, 3, 4) or (dimension == 4 and vector):
        raise InputError(
            f"'{path}' has {dimension} axes and {components} component(s) a voxel: volumes of 2 "
            "or 3 axes are read, several of them by a 4th axis or as components."
        )
    if dimension == 4:
        values, axis = np.moveaxis(values[0], -1, 0), "volumes (4th axis)"
    else:
        axis = "components a voxel"
    array = one_volume(
        values[:, None], volume=volume, as_channels=as_channels, path=path, axis=axis
    )
    grid = _grid(image, path)
    affine = None
    if dimension > 2 and _is_placed(image, path):
        affine = as_affine(_affine(grid), f"The affine of '{path}'")
    return Image(array, affine, grid.spacing, (path,), grid)


def save_itk(path: Path, values: NDArray[np.float32], grid: ItkGrid) -> Path:
    """Writes a float32 map ``[X, Y, Z]`` or ``[X, Y]`` as ``.nrrd`` or ``.mha``, compressed.

    Raises:
        SaveError: The file could not be written.
        MissingPackageError: SimpleITK is not installed.
    """
    sitk = require("SimpleITK", extra="itk")
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction)

    def write(temporary: Path) -> None:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO(FORMATS[path.suffix.lower()])
        writer.UseCompressionOn()
        writer.SetFileName(str(temporary))
        try:
            writer.Execute(image)
        except RuntimeError as error:
            raise SaveError(
                f"Could not save '{path}': {_reason(error, temporary)} Check the path and the disk."
            ) from error

    return write_atomically(path, write)


def grid_of(affine: Affine) -> ItkGrid:
    """What ITK calls an affine.

    Raises:
        InputError: It is sheared: ITK has voxel sizes and perpendicular directions only.

    Example:
        >>> grid_of(np.diag([2.0, 2.0, 5.0, 1.0])).direction
        (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    """
    if is_sheared(affine):
        raise InputError(
            "The image's axes are not perpendicular (a sheared affine), which NRRD and MetaImage "
            "files of ITK cannot hold: save the map as .nii.gz."
        )
    spacing = spacing_of(affine)
    lps = LPS @ affine
    direction = lps[:3, :3] / spacing + 0.0  # no negative zeros
    return ItkGrid(tuple(lps[:3, 3].tolist()), spacing, tuple(direction.ravel().tolist()))


def _affine(grid: ItkGrid) -> Affine:
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing
    lps[:3, 3] = grid.origin
    return LPS @ lps + 0.0


def _grid(image: Any, path: Path) -> ItkGrid:
    """The grid of an image's axes of space."""
    dimension = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))
    axes = min(dimension, 3)
    if dimension == 4 and (direction[3, :3].any() or direction[:3, 3].any()):
        raise InputError(f"The 4th axis of '{path}' is turned into space: its geometry is damaged.")
    return ItkGrid(
        image.GetOrigin()[:axes],
        image.GetSpacing()[:axes],
        tuple(direction[:axes, :axes].ravel().tolist()),
    )


def _is_placed(image: Any, path: Path) -> bool:
    """Whether a file says where its voxels lie in the patient. MetaImage always does."""
    if FORMATS[path.suffix.lower()] == "MetaImageIO":
        return True
    space = image.GetMetaData(_SPACE) if image.HasMetaDataKey(_SPACE) else "none"
    if space.startswith(_ANATOMICAL):
        return True
    warn(
        f"'{path.name}' does not say where its voxels lie in the patient (its space is {space}): "
        "left and right are not known. A map of it is written with the numbers as ITK takes them."
    )
    return False


def _reason(error: RuntimeError, path: Path) -> str:
    """The telling line of an ITK error: the last, but for what the C library says of it."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Reason:")]
    last = re.sub(r"^ITK ERROR: \w+\(\w+\): ", "", telling[-1]).replace(str(path), path.name)
    return f"{last.rstrip('.')}."
