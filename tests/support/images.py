"""Images on disk, and what other programs say of them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import SimpleITK as sitk

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(degrees, spacing, origin=(-91.25, 37.5, 412.125)):
    """An affine: rotations about z, y and x, voxel sizes (negative: mirrored) and an origin."""
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
    "anisotropic": turned((0, 0, 0), (0.5, 0.75, 5)),
    "oblique": turned((20, -11, 33), (0.9, 0.8, 3)),
    "left-handed": turned((0, 0, 0), (-1, 1, 1)),
    "left-handed oblique": turned((15, 40, -25), (-0.7, 1.1, 2.5)),
    "coronal": turned((90, 0, 90), (1, 1, 4)),
    "upside down": turned((180, 0, 0), (1, 2, 3)),
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
    """A SimpleITK image of x, y, z[, t] values, placed by a RAS affine."""
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
    """How far, in mm, a voxel may be moved by what these formats can hold.

    NRRD and MetaImage hold doubles. NIfTI holds float32: twelve numbers of the affine, and three of
    a quaternion whose first part is the root of what is left of 1, so that near half a turn a
    rounding error of eps becomes one of sqrt(eps).
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
    """SimpleITK has the same numbers at the same points, as nearly as the format can hold them."""
    atol = tolerance(image.affine, image.space, "".join(path.suffixes[-2:]))
    seen = sitk.ReadImage(str(path))
    values = image.array[channel]
    assert seen.GetSize()[:3] == values.shape
    rng = np.random.default_rng(seed)
    voxels = [tuple(int(rng.integers(n)) for n in values.shape) for _ in range(20)]
    voxels += [(0, 0, 0), tuple(n - 1 for n in values.shape)]
    further = (channel,) * (seen.GetDimension() - 3)
    for voxel in voxels:
        point = seen.TransformIndexToPhysicalPoint(voxel + further)[:3]
        np.testing.assert_allclose((LPS @ image.affine @ (*voxel, 1))[:3], point, rtol=0, atol=atol)
        pixel = seen.GetPixel(voxel + further)
        assert values[voxel] == (pixel[channel] if isinstance(pixel, tuple) else pixel)
    np.testing.assert_allclose(image.spacing, seen.GetSpacing()[:3], rtol=1e-6)
