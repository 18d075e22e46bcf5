"""`save`: one map, one file, read back with other libraries."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from matplotlib import colormaps
from skimage import io

import medcam
from medcam.errors import InputError, InputTypeError, MedcamWarning, SaveError
from medcam.explanation.single_file import save
from medcam.files import read_image

RNG = np.random.default_rng(0)
PLANE = RNG.uniform(0, 3, (17, 23)).astype(np.float32)
VOLUME = RNG.normal(size=(4, 5, 6)).astype(np.float32)
AFFINE = np.array([[0, -2.0, 0, 5], [0.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
@pytest.mark.parametrize("name", ["map", "map.png", "layer4.0", "new/folder/map.PNG"])
def test_a_plane_is_a_picture(tmp_path, axes, name):
    path = save(torch.tensor(PLANE).reshape(*axes, 17, 23), tmp_path / name)
    assert path == tmp_path / (name if name.lower().endswith(".png") else name + ".png")
    top = np.percentile(PLANE, 99.9)
    expected = colormaps["inferno"](np.clip(PLANE.astype(float) / top, 0, 1))[..., :3]
    np.testing.assert_allclose(io.imread(path), expected * 255, atol=0.51)


def test_a_plane_over_its_image_has_the_images_size(tmp_path):
    image = RNG.integers(0, 256, (40, 64, 3), np.uint8)
    zero = save(np.zeros((5, 8)), tmp_path / "zero.png", raw_input=image)
    np.testing.assert_array_equal(io.imread(zero), image)
    hot = np.zeros((5, 8))
    hot[1, 6] = 1
    change = np.abs(io.imread(save(hot, tmp_path / "hot", True, image)).astype(int) - image)
    # Pixel (1, 6) of five by eight is the square [8, 16) x [48, 56) of forty by sixty-four.
    rows, columns = np.nonzero(change.sum(axis=2) > 0.5 * change.sum(axis=2).max())
    assert 8 <= rows.mean() < 16
    assert 48 <= columns.mean() < 56
    assert change[20:].sum() == change[:, :44].sum() == 0


@pytest.mark.parametrize("name", ["map.tif", "map.TIFF", "map.npy", "a/layer4.0.tif"])
def test_the_raw_values_of_a_plane(tmp_path, name):
    """As `explanation.save` writes them: no colours, no image, whatever the options of a picture.

    The image is larger than the map, which is not resampled.
    """
    values = PLANE - 1
    path = save(values[None], tmp_path / name, True, np.zeros((34, 46)), colormap="jet")
    assert path == tmp_path / name
    read = np.load(path) if name.endswith(".npy") else io.imread(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values)
    assert np.array_equal(read_image(path).array[0], values)


def test_raw_values_on_a_layers_grid_are_not_resampled(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 4, stride=4), torch.nn.AdaptiveMaxPool2d(1))
    net.append(torch.nn.Flatten())
    x = torch.rand(1, 1, 16, 24)
    item = medcam.explain(net.eval(), x, layer="0", target=1, method="hirescam", shape=None).map
    for ending in ("tif", "npy"):
        path = save(item, tmp_path / f"raw.{ending}", raw_input=x[0])
        np.testing.assert_array_equal(read_image(path).array[0], item.values[0, 0])
    assert io.imread(save(item, tmp_path / "drawn.png", raw_input=x[0])).shape[:2] == (16, 24)


def test_without_heatmap_a_positive_map_is_black_to_white(tmp_path):
    values = np.array([[0.0, 1.0], [2.0, 4.0]])
    read = io.imread(save(values, tmp_path / "a", heatmap=False))
    assert read.tolist() == [[0, 64], [128, 255]]


def test_without_heatmap_zero_of_a_signed_map_is_mid_grey(tmp_path):
    values = np.array([[0.0, 1.0], [-2.0, 2.0]])
    read = io.imread(save(values, tmp_path / "a", heatmap=False))
    assert read.tolist() == [[128, 191], [0, 255]]
    forced = io.imread(save(values.clip(0), tmp_path / "b", heatmap=False, signed=True))
    assert forced.tolist() == [[128, 191], [128, 255]]


def test_a_colormap_by_name(tmp_path):
    read = io.imread(save(np.array([[0.0, 1.0]]), tmp_path / "a", colormap="jet"))
    assert read.tolist() == [[[0, 0, 128], [128, 0, 0]]]
    with pytest.raises(InputError, match=r"Colormap 'infernal' does not exist.*inferno"):
        save(PLANE, tmp_path / "b", colormap="infernal")


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
@pytest.mark.parametrize("name", ["map", "map.nii.gz", "map.nii", "encoder.stages.3"])
def test_a_volume_is_float_nifti(tmp_path, axes, name):
    volume = torch.tensor(VOLUME).reshape(*axes, 4, 5, 6)
    path = save(volume, tmp_path / name, reference=AFFINE)
    assert path == tmp_path / (name if ".nii" in name else name + ".nii.gz")
    np.testing.assert_array_equal(nib.load(path).affine, AFFINE)
    read = SimpleITK.ReadImage(str(path))
    assert read.GetPixelID() == SimpleITK.sitkFloat32
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read).transpose(2, 1, 0), VOLUME)


def test_a_volume_of_one_slice_along_x(tmp_path):
    thin = VOLUME[:1]
    for name, reference in (("a.nii", np.eye(4)), ("b", np.eye(4))):
        read = nib.load(save(thin[None, None], tmp_path / name, reference=reference))
        np.testing.assert_array_equal(np.asanyarray(read.dataobj), thin)
    assert save(thin, tmp_path / "c").name == "c.png"


class Tagged(torch.Tensor):
    """A tensor with an affine, as MONAI's MetaTensor."""

    affine: torch.Tensor


def tagged(*shape):
    image = torch.zeros(shape).as_subclass(Tagged)
    image.affine = torch.tensor(AFFINE)
    return image


@pytest.mark.parametrize(
    "image", [tagged(2, 4, 5, 6), nib.Nifti1Image(np.zeros((4, 5, 6)), AFFINE)]
)
def test_a_raw_input_with_the_maps_grid_gives_the_affine(tmp_path, image):
    read = nib.load(save(VOLUME, tmp_path / "a", raw_input=image))
    np.testing.assert_array_equal(read.affine, AFFINE)
    other = nib.load(save(VOLUME, tmp_path / "a", raw_input=image, reference=np.eye(4) * 1.0))
    np.testing.assert_array_equal(other.affine, np.eye(4))


@pytest.mark.parametrize("image", [tagged(1, 8, 10, 12), torch.zeros(1, 4, 5, 6)])
def test_a_raw_input_with_another_grid_gives_no_affine(tmp_path, image):
    with pytest.warns(MedcamWarning, match="identity affine"):
        read = nib.load(save(VOLUME, tmp_path / "a", raw_input=image))
    np.testing.assert_array_equal(read.affine, np.eye(4))
    np.testing.assert_array_equal(np.asanyarray(read.dataobj), VOLUME)


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        (PLANE, "a.jpg", r"2D map is saved as \.png, \.tif, \.tiff or \.npy, not '\.jpg'"),
        (PLANE, "a.nii.gz", r"2D map is saved as \.png"),
        (VOLUME, "a.png", r"3D map is saved as \.nii\.gz or \.nii, not '\.png'"),
        (VOLUME, "a.mha", r"\.nii\.gz or \.nii"),
        (VOLUME, "a.npy.gz", r"\.nii\.gz or \.nii"),
        (np.zeros(5), "a.nii.gz", r"1D map is saved as \.png or \.npy, not '\.gz'"),
        (np.zeros(()), "a", r"not \[\]"),
        (np.zeros((2, 4, 5, 6)), "a", "each sample and channel"),
        (np.zeros((2, 1, 4, 5)), "a", "each sample and channel"),
        (np.float32(3), "a", r"not \[\]"),
        (np.where(PLANE > 1, np.nan, 0), "a", "NaN"),
        (np.zeros((0, 5)), "a", r"empty: its shape is \[0, 5\]"),
    ],
)
def test_what_cannot_be_saved(tmp_path, values, name, message):
    with pytest.raises(InputError, match=message):
        save(values, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [PLANE, VOLUME])
def test_a_folder_that_is_a_file(tmp_path, values):
    (tmp_path / "file").write_text("old")
    with pytest.raises(SaveError, match="is a file, not a folder"):
        save(values, tmp_path / "file" / "map", reference=None if values.ndim == 2 else AFFINE)
    assert (tmp_path / "file").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_whole_explanation_is_refused_with_what_to_do(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    x = torch.rand(1, 1, 8, 8)
    net(x)
    explanation = medcam.explain(net.eval(), x, layer="0", target=0)
    with pytest.raises(InputTypeError, match=r"medcam\.save\(explanation\.map.*explanation\.save"):
        save(explanation, tmp_path / "map")
