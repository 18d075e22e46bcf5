"""Voxels of NRRD and MetaImage files, read without ITK, are those that SimpleITK reads."""

from __future__ import annotations

import bz2
import gzip
import itertools
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medcam.errors import InputError
from medcam.files import read_image
from support.images import itk_image, numbers, rotated

SHAPE = (5, 6, 7)
AFFINE = rotated((20, -11, 33), (0.9, 0.8, 3))
TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def by_itk(path):
    """Return SimpleITK's array in the order components, x, y, z."""
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    values = np.moveaxis(values, -1, 0) if components > 1 else values[None]
    return values.transpose(0, *range(values.ndim - 1, 0, -1)), image


def assert_same(path):
    expected, image = by_itk(path)
    read = read_image(path, as_channels=True)
    np.testing.assert_array_equal(read.array, expected)
    np.testing.assert_allclose(read.spacing, image.GetSpacing()[:3], rtol=1e-12)
    np.testing.assert_allclose(read.source.origin, image.GetOrigin()[:3], rtol=1e-12)
    np.testing.assert_allclose(read.source.direction, image.GetDirection(), atol=1e-12)


@given(
    st.sampled_from([".nrrd", ".nhdr", ".mha", ".mhd"]),
    st.sampled_from(TYPES),
    st.booleans(),
    st.integers(1, 4),
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
@settings(max_examples=30)
def test_what_simpleitk_writes(tmp_path_factory, ending, dtype, packed, components, shape, turns):
    values = numbers((*shape, components), np.dtype(dtype))
    is_vector = components > 1
    stacked = np.moveaxis(values, -1, 0) if is_vector else values[..., 0]
    image = itk_image(stacked, rotated(turns, (0.5, 2, 3)), vector=is_vector)
    path = tmp_path_factory.mktemp("itk") / f"a{ending}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    assert_same(path)


def nrrd(path, values, *, data=None, **fields):
    """Write an NRRD file by hand; ``data``: the bytes after the header."""
    lines = {
        "type": "int16", "dimension": str(values.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, values.shape)),
        "space directions": "(2,0,0) (0,3,0) (0,0,4)", "space origin": "(1,-2,3)",
        "kinds": "domain domain domain", "encoding": "raw", "endian": "little",
    }  # fmt: skip
    lines.update({name.replace("_", " "): value for name, value in fields.items()})
    header = "NRRD0004\n# by hand\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v)
    content = values.astype("<i2").tobytes("F") if data is None else data
    path.write_bytes(header.encode() + b"key:=a value: with a colon\n" + b"\n" + content)
    return path


PLAIN = numbers(SHAPE)
LITTLE = PLAIN.astype("<i2").tobytes("F")
TEXT = " ".join(map(str, PLAIN.ravel("F"))).encode()
HEX = LITTLE.hex()
LINES = "\n".join(HEX[i : i + 80] for i in range(0, len(HEX), 80)).encode()


@pytest.mark.parametrize(
    ("encoding", "data", "fields"),
    [
        ("raw", LITTLE, {}),
        ("raw", PLAIN.astype(">i2").tobytes("F"), {"endian": "big"}),
        ("gzip", gzip.compress(LITTLE), {}),
        ("gz", gzip.compress(LITTLE, 1), {}),
        ("bzip2", bz2.compress(LITTLE), {}),
        ("text", TEXT, {"endian": ""}),
        ("ascii", TEXT.replace(b" ", b"\n"), {}),
        ("hex", LINES, {}),
        ("raw", b"a line\nanother\n" + LITTLE, {"line_skip": "2"}),
        ("raw", b"four" + LITTLE, {"byte_skip": "4"}),
        ("raw", b"whatever" + LITTLE, {"byte_skip": "-1"}),
        ("gzip", gzip.compress(b"four" + LITTLE), {"byteskip": "4"}),
        ("raw", LITTLE, {"type": "signed short int", "centers": "cell cell cell"}),
        ("raw", LITTLE, {"type": "unsigned short", "kinds": ""}),
        ("raw", LITTLE, {"space": "RAS", "space_directions": "(0,1,0) (-1,0,0) (0,0,2e0)"}),
    ],
    ids=itertools.count(),
)
def test_every_encoding_of_nrrd(tmp_path, encoding, data, fields):
    path = nrrd(tmp_path / "a.nrrd", PLAIN, data=data, encoding=encoding, **fields)
    if encoding == "bzip2":  # ITK is built without it
        np.testing.assert_array_equal(read_image(path).array[0], PLAIN)
    else:
        assert_same(path)


@pytest.mark.parametrize(("axis", "kind"), [(0, "vector"), (3, "list"), (0, "RGB-color")])
def test_components_of_nrrd_on_any_axis(tmp_path, axis, kind):
    values = np.moveaxis(numbers((*SHAPE, 3)), -1, axis)
    kinds, vectors = ["domain"] * 3, ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    kinds.insert(axis, kind)
    vectors.insert(axis, "none")
    fields = {"kinds": " ".join(kinds), "space_directions": " ".join(vectors)}
    path = nrrd(tmp_path / "a.nrrd", values, **fields)
    image = read_image(path, as_channels=True)
    np.testing.assert_array_equal(image.array, np.moveaxis(values, axis, 0))
    assert image.spacing == (2, 3, 4)
    if axis == 0:
        assert_same(path)


@pytest.mark.parametrize("by", ["LIST", "pattern"])
def test_an_nrrd_of_several_files(tmp_path, by):
    for z in range(7):
        (tmp_path / f"s{z:02d}.raw").write_bytes(PLAIN[..., z].astype("<i2").tobytes("F"))
    header = nrrd(tmp_path / "b.nrrd", PLAIN, data=b"").read_text().rstrip("\n")
    listed = "".join(f"s{z:02d}.raw\n" for z in range(7))
    data = f"LIST\n{listed}" if by == "LIST" else "s%02d.raw 0 6 1\n"
    (tmp_path / "a.nhdr").write_text(f"{header}\ndata file: {data}")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nhdr").array[0], PLAIN)


MHA = (
    "ObjectType = Image\nNDims = 3\n{more}TransformMatrix = 0 1 0 -1 0 0 0 0 1\n"
    "Offset = 1.5 -2 30\nElementSpacing = 2 3 4\nDimSize = 5 6 7\nElementType = MET_SHORT\n"
    "Comment = anything at all\nElementDataFile = {data}\n"
)


@pytest.mark.parametrize(
    ("more", "data"),
    [
        ("BinaryData = True\nBinaryDataByteOrderMSB = False\n", LITTLE),
        ("ElementByteOrderMSB = True\n", PLAIN.astype(">i2").tobytes("F")),
        ("BinaryData = False\n", TEXT),
        ("CompressedData = True\n", zlib.compress(LITTLE)),
        ("CompressedData = True\n", gzip.compress(LITTLE)),
        (
            f"CompressedData = True\nCompressedDataSize = {len(zlib.compress(LITTLE))}\n",
            zlib.compress(LITTLE),
        ),
    ],
    ids=["binary", "big endian", "text", "zlib", "gzip", "with its size"],
)
@pytest.mark.parametrize("is_local", [True, False])
def test_every_encoding_of_metaimage(tmp_path, more, data, is_local):
    name = "LOCAL" if is_local else "voxels.bin"
    header = MHA.format(more=more, data=name).encode()
    path = tmp_path / ("a.mha" if is_local else "a.mhd")
    path.write_bytes(header + (data if is_local else b""))
    (tmp_path / "voxels.bin").write_bytes(data)
    np.testing.assert_array_equal(read_image(path).array[0], PLAIN)
    if "ByteOrder" in more or "Size" in more:  # ITK itself reads no text, nor without the size
        assert_same(path)


@pytest.mark.parametrize("data", ["LIST", "s%02d.raw 0 6 1"])
def test_a_metaimage_of_several_files(tmp_path, data):
    for z in range(7):
        (tmp_path / f"s{z:02d}.raw").write_bytes(PLAIN[..., z].astype("<i2").tobytes("F"))
    listed = "".join(f"s{z:02d}.raw\n" for z in range(7)) if data == "LIST" else ""
    (tmp_path / "a.mhd").write_text(MHA.format(more="", data=data) + listed)
    assert_same(tmp_path / "a.mhd")


@pytest.mark.parametrize("skip", [-1, 8])
def test_a_metaimage_with_another_header_before_its_voxels(tmp_path, skip):
    (tmp_path / "voxels.bin").write_bytes(b"whatever" + LITTLE)
    text = MHA.format(more=f"HeaderSize = {skip}\n", data="voxels.bin")
    (tmp_path / "a.mhd").write_text(text)
    assert_same(tmp_path / "a.mhd")


def test_a_matrix_of_components_that_itk_changes_is_refused(tmp_path):
    values = np.moveaxis(numbers((*SHAPE, 7)), -1, 0)
    fields = {
        "kinds": "3D-masked-symmetric-matrix domain domain domain",
        "space_directions": "none (2,0,0) (0,3,0) (0,0,4)",
    }
    with pytest.raises(InputError):
        read_image(nrrd(tmp_path / "a.nrrd", values, **fields), as_channels=True)
