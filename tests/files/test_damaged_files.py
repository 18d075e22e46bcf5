"""A damaged file is an image or an error of ours: 2,000 seeded mutations over all readers."""

from __future__ import annotations

import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from medcam.files import read_image
from medcam.files.formats.nifti import save_nifti
from support.images import AFFINES, itk_image, numbers
from support.mutations import failures_of

pytestmark = pytest.mark.slow

SHAPE = (5, 6, 7)


def read_it(path):
    """Read an image; what was read can be used."""
    name = path.name
    options = {"as_channels": True}
    if name.endswith(("pages.tif", "volume.npy")):
        options = {"as_channels": False}
    image = read_image(path, **options)
    assert image.array.size
    assert np.isfinite(np.float32(image.array)).all()
    assert image.spacing is None or all(0 < size < np.inf for size in image.spacing)
    assert image.affine is None or np.isfinite(image.affine).all()


def refer_to(path):
    """Save a map with the geometry of a file."""
    save_nifti(path.parent / "map.nii.gz", np.ones(SHAPE, np.float32), path)
    saved = nib.load(path.parent / "map.nii.gz")
    assert (np.array(saved.header.get_zooms()) > 0).all()
    assert np.isfinite(saved.header.get_zooms()).all()


def made_by(write, folder, name):
    write(folder / name)
    return (folder / name).read_bytes()


def nifti_files(folder):
    files = {}
    for dtype in ("u1", "i2", ">f4", "f8"):
        for ending in (".nii", ".nii.gz"):
            image = nib.Nifti1Image(numbers(SHAPE, np.dtype(dtype)), AFFINES["oblique"])
            files[f"{dtype[-2:]}{ending}"] = made_by(image.to_filename, folder, f"a{ending}")
    four = nib.Nifti1Image(numbers((*SHAPE, 2)), np.eye(4))
    files["four.nii.gz"] = made_by(four.to_filename, folder, "b.nii.gz")
    second = nib.Nifti2Image(numbers(SHAPE), np.eye(4))
    files["second.nii"] = made_by(second.to_filename, folder, "c.nii")
    colour = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    colours = np.ones((*SHAPE, 4), np.uint8).view(colour)[..., 0]
    coloured = nib.Nifti1Image(colours, np.eye(4))
    files["colours.nii"] = made_by(coloured.to_filename, folder, "d.nii")
    return files


def geometries(folder):
    files = nifti_files(folder)
    return {name: files[name] for name in ("i2.nii", "f4.nii.gz", "second.nii")}


def itk_files(folder):
    files = {}
    for ending in (".nrrd", ".mha"):
        for packed in (False, True):
            image = itk_image(numbers(SHAPE), AFFINES["oblique"])
            path = folder / f"a{ending}"
            sitk.WriteImage(image, str(path), useCompression=packed)
            files[f"{'packed' if packed else 'plain'}{ending}"] = path.read_bytes()
    vectors = itk_image(numbers((3, *SHAPE)), AFFINES["oblique"], vector=True)
    sitk.WriteImage(vectors, str(folder / "v.nrrd"))
    files["vectors.nrrd"] = (folder / "v.nrrd").read_bytes()
    header = files["plain.mha"].split(b"LOCAL\n")[0]
    text = " ".join(map(str, numbers(SHAPE).ravel())).encode()
    files["text.mha"] = (
        header.replace(b"BinaryData = True", b"BinaryData = False") + b"LOCAL\n" + text
    )
    (folder / "v.raw").write_bytes(numbers(SHAPE).tobytes())
    (folder / "v.zraw").write_bytes(zlib.compress(numbers(SHAPE).tobytes()))
    files["apart.mhd"] = header + b"v.raw\n"
    packed = header.replace(b"CompressedData = False", b"CompressedData = True")
    files["apart-packed.mhd"] = packed + b"v.zraw\n"
    return files


def other_files(folder):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (12, 14), np.uint8)
    colour = rng.integers(0, 255, (12, 14, 3), np.uint8)
    files = {}
    for ending in ("png", "jpg", "bmp", "tif"):
        for name, values in (("grey", grey), ("colour", colour)):
            path = folder / f"{name}.{ending}"
            Pillow.fromarray(values).save(path)
            files[path.name] = path.read_bytes()
    for packing in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        Pillow.fromarray(grey).save(folder / "p.tif", compression=packing)
        files[f"{packing}.tif"] = (folder / "p.tif").read_bytes()
    pages = [Pillow.fromarray(np.float32(grey)) for _ in range(3)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    files["pages.tif"] = (folder / "pages.tif").read_bytes()
    for name, values in (("flat", grey), ("volume", np.ones((4, 5, 6), np.float32))):
        np.save(folder / "a.npy", values)
        files[f"{name}.npy"] = (folder / "a.npy").read_bytes()
    np.save(folder / "f.npy", np.asfortranarray(np.ones((2, 5, 6, 3), ">i4")))
    files["fortran.npy"] = (folder / "f.npy").read_bytes()
    return files


@pytest.mark.parametrize(
    ("make", "read", "count"),
    [
        (nifti_files, read_it, 500),
        (itk_files, read_it, 700),
        (other_files, read_it, 600),
        (geometries, refer_to, 200),
    ],
    ids=["nifti", "itk", "pictures and arrays", "references"],
)
def test_damaged_images(tmp_path, make, read, count):
    failures = failures_of(read, make(tmp_path), tmp_path, range(count))
    assert not failures, "\n".join(failures)
