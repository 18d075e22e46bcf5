"""The values and header fields of a NIfTI map, as other libraries and the raw bytes show them."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import torch

from medcam.files import save_nifti


def image_of(affine, shape=(5, 6, 7), dtype=np.int16):
    return nib.Nifti1Image(np.zeros(shape, dtype), affine)


KINDS = {
    "tensor": lambda values: torch.tensor(values, requires_grad=True),
    "permuted view": lambda values: torch.tensor(values.transpose(2, 0, 1).copy()).permute(1, 2, 0),
    "float64": lambda values: values.astype(np.float64),
    "big endian": lambda values: values.astype(">f4"),
    "fortran": np.asfortranarray,
    "list": np.ndarray.tolist,
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_volume(tmp_path, kind, volume, affine, assert_saved):
    path = save_nifti(tmp_path / "m.nii.gz", KINDS[kind](volume), affine)
    assert_saved(path, affine, volume)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.bool])
def test_any_type_of_number(tmp_path, dtype, volume, affine, assert_saved):
    values = torch.tensor(volume * 3).to(dtype)
    path = save_nifti(tmp_path / "m.nii.gz", values, affine)
    assert_saved(path, affine, values.float().numpy())


def field(path, offset: int, kind: str):
    """Return a header field, unpacked from the raw bytes."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return struct.unpack_from("<" + kind, data, offset)


def test_the_sources_header_is_kept_bit_by_bit(tmp_path, volume, affine):
    other = np.diag([0.5, 0.75, 5, 1])
    header = nib.Nifti1Header()
    header.set_sform(affine, 4)
    header.set_qform(other, 1)
    header.set_xyzt_units("micron", "sec")
    source = nib.Nifti1Image(np.zeros((5, 6, 7, 3), np.int16), None, header)
    nib.save(source, tmp_path / "image.nii")
    path = save_nifti(tmp_path / "m.nii", volume, tmp_path / "image.nii")
    # qform_code ... srow_z, the spatial part of pixdim, and the units
    for offset, kind in ((252, "2h6f12f"), (76, "4f"), (123, "b")):
        assert field(path, offset, kind) == field(tmp_path / "image.nii", offset, kind)
    read = nib.load(path)
    np.testing.assert_array_equal(read.get_sform(), np.float32(affine))
    np.testing.assert_allclose(read.get_qform(), other, rtol=1e-6)
    assert [int(read.header[f"{kind}form_code"]) for kind in "sq"] == [4, 1]
    assert read.header.get_xyzt_units() == ("micron", "sec")


def test_a_source_without_any_form_stays_without(tmp_path, volume):
    header = nib.Nifti1Header()
    header.set_data_shape((5, 6, 7))
    header.set_zooms((1, 2, 3))
    source = nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), None, header)
    read = nib.load(save_nifti(tmp_path / "m.nii", volume, source))
    assert [int(read.header[f"{kind}form_code"]) for kind in "sq"] == [0, 0]
    np.testing.assert_array_equal(read.affine, header.get_base_affine())
    assert read.header.get_zooms() == (1, 2, 3)


def test_a_scaled_integer_source_does_not_scale_the_map(tmp_path, volume, affine, assert_saved):
    source = image_of(affine)
    source.header.set_slope_inter(2.5, -1024)
    nib.save(source, tmp_path / "image.nii")
    assert field(tmp_path / "image.nii", 112, "2f") == (2.5, -1024)
    path = save_nifti(tmp_path / "m.nii", volume, tmp_path / "image.nii")
    assert_saved(path, affine, volume)
    assert field(path, 112, "2f") == (1, 0)  # scl_slope, scl_inter
    assert field(path, 70, "2h") == (16, 32)  # float32


def test_nothing_else_of_the_source_is_copied(tmp_path, volume, affine):
    source = image_of(affine)
    source.header["descrip"] = b"Doe^Jane"
    source.header["db_name"] = b"MRN 4711"
    source.header["aux_file"] = b"secret"
    source.header["intent_code"] = 1003
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 1970"))
    nib.save(source, tmp_path / "image.nii")
    path = save_nifti(tmp_path / "m.nii", volume, tmp_path / "image.nii")
    for word in (b"Doe", b"4711", b"secret", b"1970"):
        assert word in (tmp_path / "image.nii").read_bytes()
        assert word not in path.read_bytes()
    assert field(path, 68, "h") == (0,)
    assert field(path, 148, "80s")[0].rstrip(b"\0") == b"medcam"


def percentile(magnitudes, q):
    """Return a percentile by linear interpolation between order statistics."""
    ordered = sorted(float(value) for value in magnitudes)
    rank = q / 100 * (len(ordered) - 1)
    low = int(rank)
    return ordered[low] + (rank - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_window_of_viewers(tmp_path, sign):
    values = np.zeros((20, 20, 20), np.float32)
    values[:2] = np.random.default_rng(1).exponential(size=(2, 20, 20))
    values[0, 0, 0] = sign * 1000.0
    top = percentile(np.abs(values[values != 0]), 99.9)
    read = nib.load(save_nifti(tmp_path / "m.nii", values, np.eye(4)))
    assert 3 < top < 1000
    assert float(read.header["cal_max"]) == pytest.approx(top, rel=1e-5)
    assert float(read.header["cal_min"]) == pytest.approx(0 if sign > 0 else -top, rel=1e-5)


def test_a_map_of_zeros(tmp_path, affine, assert_saved):
    zeros = np.zeros((5, 6, 7), np.float32)
    path = save_nifti(tmp_path / "m.nii", zeros, affine)
    assert_saved(path, affine, zeros)
    assert field(path, 124, "2f") == (0, 0)


def test_the_same_map_gives_the_same_bytes(tmp_path, volume, affine):
    first = save_nifti(tmp_path / "first.nii.gz", volume, affine).read_bytes()
    assert save_nifti(tmp_path / "second.nii.gz", volume, affine).read_bytes() == first
