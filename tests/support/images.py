"""Images on disk, and a comparison with what SimpleITK reads from them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import SimpleITK as sitk

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotated(degrees, spacing, origin=(-91.25, 37.5, 412.125)):
    """Return an affine: rotations about z, y and x, voxel sizes (negative: mirrored), an origin."""
    z, y, x = np.deg2rad(degrees)
    rotation = (
        np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        @ np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = origin
    return affine


AFFINES = {
    "anisotropic": rotated((0, 0, 0), (0.5, 0.75, 5)),
    "oblique": rotated((20, -11, 33), (0.9, 0.8, 3)),
    "left-handed": rotated((0, 0, 0), (-1, 1, 1)),
    "left-handed oblique": rotated((15, 40, -25), (-0.7, 1.1, 2.5)),
    "coronal": rotated((90, 0, 90), (1, 1, 4)),
    "upside down": rotated((180, 0, 0), (1, 2, 3)),
}


def numbers(shape, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(dtype)


def write_nifti(path, values, affine, **header):
    image = nib.Nifti1Image(values, affine)
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def itk_image(values, affine, *, vector=False):
    """Return a SimpleITK image of values in the order x, y, z[, t], with a RAS affine."""
    # components are the last axis of SimpleITK's arrays, the first of the values
    image = sitk.GetImageFromArray(values.T, isVector=vector)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = image.GetDimension()
    direction, origin, sizes = np.eye(axes), np.zeros(axes), np.ones(axes)
    direction[:3, :3] = lps[:3, :3] / spacing
    origin[:3], sizes[:3] = lps[:3, 3], spacing
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    image.SetSpacing(sizes.tolist())
    return image


def tolerance(affine, shape, *endings):
    """Return the largest rounding error, in mm, of a voxel's position in the given formats.

    NRRD and MetaImage store float64. NIfTI stores float32: twelve numbers of the affine, and three
    components of a unit quaternion. Its first component is recovered from them, as
    sqrt(1 - b² - c² - d²): near a rotation by 180 degrees an error of eps becomes sqrt(eps).
    """
    if not any(ending.startswith(".nii") for ending in endings):
        return 1e-9
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    rotation = affine[:3, :3] / sizes
    if np.linalg.det(rotation) < 0:
        rotation = rotation * (1, 1, -1)  # as NIfTI's qfac
    first = np.sqrt(max(1 + np.trace(rotation), 0)) / 2
    step = float(np.finfo(np.float32).eps)
    turn = 2 * (min(step / max(first, step), np.sqrt(step)) + step)
    reach = np.linalg.norm(sizes * shape[:3])
    return turn * reach + step * (np.abs(affine[:3, 3]).max() + reach)


def assert_agrees(image, path, *, channel=0, seed=0):
    """Check that SimpleITK reads the same values at the same positions, up to rounding."""
    atol = tolerance(image.affine, image.space, "".join(path.suffixes[-2:]))
    other = sitk.ReadImage(str(path))
    values = image.array[channel]
    assert other.GetSize()[:3] == values.shape
    rng = np.random.default_rng(seed)
    voxels = [tuple(int(rng.integers(n)) for n in values.shape) for _ in range(20)]
    voxels += [(0, 0, 0), tuple(n - 1 for n in values.shape)]
    volume_index = (channel,) * (other.GetDimension() - 3)
    for voxel in voxels:
        point = other.TransformIndexToPhysicalPoint(voxel + volume_index)[:3]
        np.testing.assert_allclose((LPS @ image.affine @ (*voxel, 1))[:3], point, rtol=0, atol=atol)
        pixel = other.GetPixel(voxel + volume_index)
        assert values[voxel] == (pixel[channel] if isinstance(pixel, tuple) else pixel)
    np.testing.assert_allclose(image.spacing, other.GetSpacing()[:3], rtol=1e-6)
