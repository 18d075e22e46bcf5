"""Shared fixtures: a small map, a general affine, and a check of a saved NIfTI file."""

from __future__ import annotations

from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
import SimpleITK


@pytest.fixture
def volume() -> np.ndarray:
    """A positive map with three different extents, so that every transpose changes its shape."""
    return np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32) ** 2


@pytest.fixture
def affine() -> np.ndarray:
    """An affine that is oblique, left-handed, anisotropic and off the origin."""
    y = np.deg2rad(40)
    tilt = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    affine = np.eye(4)
    affine[:3, :3] = tilt * (-0.7, 1.1, 2.5)
    affine[:3, 3] = -91.25, 37.5, 1012.125
    return affine


@pytest.fixture
def assert_saved() -> Callable[..., None]:
    return _assert_saved


def _assert_saved(path, affine, values):
    """Check the affine and the values that nibabel (RAS) and SimpleITK (LPS) read from a file."""
    read = nib.load(path)
    assert type(read) is nib.Nifti1Image
    assert read.get_data_dtype() == np.float32
    np.testing.assert_array_equal(read.affine, np.float32(affine))
    np.testing.assert_array_equal(np.asanyarray(read.dataobj), values)

    other = SimpleITK.ReadImage(str(path))
    assert other.GetPixelID() == SimpleITK.sitkFloat32
    assert other.GetSize() == values.shape
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(other).transpose(2, 1, 0), values)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    np.testing.assert_allclose(other.GetSpacing(), spacing, rtol=1e-6)
    np.testing.assert_allclose(other.GetOrigin(), lps[:3, 3], rtol=1e-6)
    direction = np.reshape(other.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction, lps[:3, :3] / spacing, atol=1e-6)
    corner = other.TransformIndexToPhysicalPoint((4, 2, 6))
    np.testing.assert_allclose(corner, (lps @ (4, 2, 6, 1))[:3], rtol=1e-5)
