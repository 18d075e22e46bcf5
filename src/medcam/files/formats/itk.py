"""NRRD and MetaImage files: voxels read here, geometry as SimpleITK gives it; written with it.

Headers are read and checked in Python, and voxels are taken as far as they are announced
(`medcam.files.formats.metaimage`, `.nrrd`, `.raw_voxels`).

SimpleITK has positions in LPS millimetres and arrays in the order z, y, x; here they become RAS
and x, y, z. SimpleITK returns an origin and directions even where the file has none. In these cases
(NRRD files without an anatomical space, 2D images) the affine is None here, and maps are saved with
the origin and directions that SimpleITK returned.
"""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, SaveError, foreign_errors, require, warn
from medcam.files.atomic import write_atomically
from medcam.files.formats.metaimage import read_metaimage_header
from medcam.files.formats.nrrd import read_nrrd_header
from medcam.files.formats.raw_voxels import RawVoxels
from medcam.files.geometry import LPS, Affine, as_affine, is_sheared, spacing_of
from medcam.files.image import Image, to_channels

FORMATS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""ITK's name for the format of each ending."""

_SPACE = "NRRD_space"
_ANATOMICAL = "left-posterior-superior"  # ITK converts the other two (RAS, LAS) to this one


@dataclass(frozen=True)
class ItkGrid:
    """The geometry of an image as ITK stores it: in LPS, x first, with 2 or 3 spatial axes.

    Attributes:
        origin: The centre of the first voxel in mm, one number per axis.
        spacing: The voxel's extents in mm, one per axis.
        direction: The square matrix whose columns are the axes' directions, flattened row by row.
    """

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


def read_itk(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Read an NRRD or MetaImage file; see `medcam.files.read_image`.

    The image's ``source`` is an `ItkGrid`. The components of a voxel (colours, vectors, frames)
    are treated as volumes.

    Raises:
        InputError: The file is not NRRD or MetaImage, is damaged, or has too many axes.
        MissingPackageError: SimpleITK is not installed.
    """
    sitk = require("SimpleITK", extra="itk")
    with foreign_errors(f"'{path}' cannot be read", "Is it cut off or damaged?"):
        header, voxels, component_axis = _read_header(path)
        values = voxels.read()
        image = _geometry(sitk, header, path)
    is_vector = component_axis is not None
    values = np.moveaxis(values, component_axis, 0) if component_axis is not None else values[None]
    dimension, components = values.ndim - 1, len(values)
    if dimension != image.GetDimension() or components != image.GetNumberOfComponents():
        raise InputError(
            f"'{path}' has axes that are no space and no components that ITK knows: its shape is "
            f"{list(voxels.sizes)}. Convert it to NIfTI."
        )
    if image.GetPixelID() in _complex_pixels(sitk):
        values = (values[0] + 1j * values[1])[None]  # refused as such, like those of other files
    if dimension not in (2, 3, 4) or (dimension == 4 and is_vector):
        raise InputError(
            f"'{path}' has {dimension} axes and {components} component(s) per voxel: an image has "
            "2 or 3 axes, and several volumes are a 4th axis or components. Split the file."
        )
    if dimension == 4:
        values, axis = np.moveaxis(values[0], -1, 0), "volumes (4th axis)"
    else:
        axis = "components per voxel"
    array = to_channels(
        values[:, None], volume=volume, as_channels=as_channels, path=path, axis=axis
    )
    grid = _grid_from_image(image, path)
    if not all(0 < size < math.inf for size in grid.spacing):
        raise InputError(
            f"'{path}' has voxels of size {list(grid.spacing)} mm: its geometry is damaged. "
            "Correct the spacing in its header."
        )
    affine = None
    if dimension > 2 and _is_placed(image, path):
        affine = as_affine(_affine_from_grid(grid), f"The affine of '{path}'")
    return Image(array, affine, grid.spacing, (path,), grid)


def _read_header(path: Path) -> tuple[str, RawVoxels, int | None]:
    """Return a new header without voxels, where the voxels are, and the axis of components."""
    if FORMATS[path.suffix.lower()] == "NrrdImageIO":
        return read_nrrd_header(path)
    return read_metaimage_header(path)


def _geometry(sitk: Any, header: str, path: Path) -> Any:
    """Return SimpleITK's reader, which knows the geometry and no voxel, of a new header.

    Raises:
        InputError: ITK refuses the geometry.
    """
    reader = sitk.ImageFileReader()
    with tempfile.TemporaryDirectory(prefix="medcam-") as folder:
        copy = Path(folder, "header" + path.suffix.lower())
        copy.write_text(header, encoding="ascii")
        reader.SetImageIO(FORMATS[path.suffix.lower()])
        reader.SetFileName(str(copy))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(
                f"'{path}' cannot be read: {_reason(error, copy)} Is it cut off or damaged?"
            ) from error
    return reader


def _complex_pixels(sitk: Any) -> tuple[int, ...]:
    """Return SimpleITK's numbers for voxels of complex numbers."""
    return sitk.sitkComplexFloat32, sitk.sitkComplexFloat64


def save_itk(path: Path, values: NDArray[np.float32], grid: ItkGrid) -> Path:
    """Write a float32 map, ``[X, Y, Z]`` or ``[X, Y]``, as compressed ``.nrrd`` or ``.mha``.

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


def grid_from_affine(affine: Affine) -> ItkGrid:
    """Return ITK's origin, spacing and directions for an affine.

    Raises:
        InputError: The affine is sheared; ITK's directions are always perpendicular.

    Example:
        >>> grid_from_affine(np.diag([2.0, 2.0, 5.0, 1.0])).direction
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


def _affine_from_grid(grid: ItkGrid) -> Affine:
    """Return the RAS affine of a grid of three axes."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing
    lps[:3, 3] = grid.origin
    return LPS @ lps + 0.0


def _grid_from_image(image: Any, path: Path) -> ItkGrid:
    """Return the grid of the spatial axes of a SimpleITK image."""
    dimension = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))
    axes = min(dimension, 3)
    if dimension == 4 and (direction[3, :3].any() or direction[:3, 3].any()):
        raise InputError(
            f"The directions of '{path}' mix the 4th axis with the spatial ones: its geometry is "
            "damaged. Correct its direction matrix."
        )
    return ItkGrid(
        image.GetOrigin()[:axes],
        image.GetSpacing()[:axes],
        tuple(direction[:axes, :axes].ravel().tolist()),
    )


def _is_placed(image: Any, path: Path) -> bool:
    """Return whether the file says where its voxels lie in the patient.

    A MetaImage always does. An NRRD file without an anatomical space does not, with a warning.
    """
    if FORMATS[path.suffix.lower()] == "MetaImageIO":
        return True
    space = image.GetMetaData(_SPACE) if image.HasMetaDataKey(_SPACE) else "none"
    if space.startswith(_ANATOMICAL):
        return True
    warn(
        f"'{path.name}' does not say where its voxels lie in the patient (its space is {space}): "
        "left and right are not known. A map of it is saved with the origin and directions that "
        "SimpleITK reports."
    )
    return False


def _reason(error: RuntimeError, path: Path) -> str:
    """Return the last line of an ITK error, which names the cause.

    A line "Reason: ..." after it is left out: it holds the C library's message, often "Success".
    """
    lines = [line.strip() for line in str(error).splitlines()]
    causes = [line for line in lines if line and not line.startswith("Reason:")]
    last = re.sub(r"^ITK ERROR: \w+\(\w+\): ", "", causes[-1]).replace(str(path), path.name)
    return f"{last.rstrip('.')}."
