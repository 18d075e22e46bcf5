"""Maps of pictures in MONAI's bundles and pipelines are saved as pictures."""

from __future__ import annotations

import copy
import json

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, PILReader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Resized,
    SaveImaged,
    ScaleIntensityd,
)
from PIL import Image

import medcam
from medcam.views.overlays import overlay
from support.monai_cases import Finder

# Loading any image makes MONAI look for a decoder of DICOM files that is not installed here.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

ROWS, COLUMNS = 64, 48
SPOT = (slice(40, 52), slice(8, 16))
BUNDLE = {
    "device": "$torch.device('cpu')",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "ScaleIntensityd", "keys": "image"},
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x[:1]"},
        ],
    },
    "network": {"_target_": "support.monai_cases.Finder", "dims": 2},
    "dataset": {"_target_": "Dataset", "transform": "@preprocessing"},
    "loader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SimpleInferer"},
    "handlers": [],
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {
                "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
                "output_ext": ".png", "output_postfix": "seg", "scale": 255, "print_log": False,
            },
        ],
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@loader",
        "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
    },
}  # fmt: skip


def write_picture(path, mode="RGB"):
    """Write a dark picture with a bright spot at the lower left; return its path."""
    pixels = np.full((ROWS, COLUMNS), 20, np.uint8)
    pixels[SPOT] = 255
    if mode == "RGB":
        pixels = np.stack([pixels, pixels // 2, pixels // 3], -1)
    Image.fromarray(pixels).save(path)
    return path


def is_in_the_spot(values):
    """Return whether a map of rows and columns has its high values in the spot."""
    high = values > values.max() / 2
    inside = np.zeros_like(high)
    inside[SPOT] = True
    return (
        values.shape == (ROWS, COLUMNS) and high.sum() > 20 and (high & inside).sum() == high.sum()
    )


def run_bundle(tmp_path, paths, *, overlaid, **options):
    bundle = copy.deepcopy(BUNDLE)
    bundle["output_dir"] = str(tmp_path / ("maps" if overlaid else "plain"))
    bundle["dataset"]["data"] = [{"image": str(path)} for path in paths]
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    parser = ConfigParser()
    overlays = [str(medcam.monai.bundle_overlay())] if overlaid else []
    parser.read_config([str(tmp_path / "bundle.json"), *overlays])
    parser.update(options)
    parser.parse()
    parser.get_parsed_content("evaluator").run()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_bundle_of_pictures(tmp_path, mode, ending):
    path = write_picture(tmp_path / f"case{ending}", mode)
    options = {"attention_target": 1, "attention_layer": "features.1"}
    run_bundle(tmp_path, [path], overlaid=False)
    run_bundle(tmp_path, [path], overlaid=True, **options)
    folder = tmp_path / "maps/case"
    assert sorted(file.name for file in folder.iterdir()) == [
        "case_attention.png", "case_attention.tif", "case_seg.png",
    ]  # fmt: skip
    segmentation = np.asarray(Image.open(folder / "case_seg.png"))
    plain = np.asarray(Image.open(tmp_path / "plain/case/case_seg.png"))
    assert segmentation.any()
    assert np.array_equal(segmentation, plain)
    values = tifffile.imread(folder / "case_attention.tif")
    assert values.dtype == np.float32
    assert is_in_the_spot(values)
    drawn = np.asarray(Image.open(folder / "case_attention.png"))
    source = np.asarray(Image.open(path))
    assert np.array_equal(drawn, overlay(values, source))
    assert np.array_equal(drawn[0, 0], np.broadcast_to(overlay(0 * values, source)[0, 0], 3))


def test_raw_values_are_those_of_explain(tmp_path):
    path = write_picture(tmp_path / "case.png", "L")
    options = {"attention_target": 1, "attention_layer": "features.1"}
    torch.manual_seed(0)
    run_bundle(tmp_path, [path], overlaid=True, **options)
    torch.manual_seed(0)
    x = torch.from_numpy(np.asarray(Image.open(path)) - 20.0).float()[None, None] / 235
    expected = medcam.explain(Finder(2).eval(), x, layer="features.1", target=1).map.values[0, 0]
    values = tifffile.imread(tmp_path / "maps/case/case_attention.tif")
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=float(expected.max()) * 1e-3)


def test_pictures_of_one_name_in_several_cases(tmp_path):
    for name in "ab":
        write_picture(tmp_path / f"{name}.png")
    run_bundle(
        tmp_path, [tmp_path / "a.png", tmp_path / "b.png"], overlaid=True,
        attention_target=1, attention_postfix="cam", attention_dir=str(tmp_path / "elsewhere"),
    )  # fmt: skip
    found = sorted(str(p.relative_to(tmp_path / "elsewhere")) for p in tmp_path.rglob("*cam*"))
    assert found == ["a/a_cam.png", "a/a_cam.tif", "b/b_cam.png", "b/b_cam.tif"]


@pytest.mark.parametrize("reverse_indexing", [True, False])
def test_maps_come_back_to_a_picture_that_was_resized(tmp_path, reverse_indexing):
    path = write_picture(tmp_path / "case.png", "L")
    reader = PILReader(reverse_indexing=reverse_indexing)
    preprocessing = Compose([
        LoadImaged("image", reader=reader), EnsureChannelFirstd("image"),
        ScaleIntensityd("image"), Resized("image", (32, 40)),
    ])  # fmt: skip
    net = Finder(2).eval()
    pipeline = Compose([
        preprocessing,
        medcam.monai.AttentionMapd("image", net, target=1, layer="features.1"),
        Invertd("image_attention", preprocessing, orig_keys="image", nearest_interp=False),
        medcam.monai.SaveAttentionMapd("image_attention", tmp_path / "out"),
    ])  # fmt: skip
    pipeline({"image": str(path)})
    assert is_in_the_spot(tifffile.imread(tmp_path / "out/case/case_attention.tif"))


def saved(tmp_path, values, meta, affine=None):
    tensor = MetaTensor(values, affine=affine, meta=meta)
    result = medcam.monai.SaveAttentionMapd("map", tmp_path / "out")({"map": tensor, "more": 1})
    assert result["more"] == 1
    assert torch.equal(result["map"].as_tensor(), values)
    return sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_picture_that_is_gone(tmp_path):
    values = torch.rand(1, 5, 7)
    png, tif = saved(tmp_path, values, {"filename_or_obj": str(tmp_path / "gone.png")})
    assert np.array_equal(tifffile.imread(tif), values[0].T)
    assert np.array_equal(np.asarray(Image.open(png)), overlay(values[0].T.numpy()))


def test_several_targets_are_numbered(tmp_path):
    values = torch.rand(2, 5, 7)
    files = saved(tmp_path, values, {"filename_or_obj": "a.png"})
    assert [path.name for path in files] == [
        "a_attention_0.png", "a_attention_0.tif", "a_attention_1.png", "a_attention_1.tif",
    ]  # fmt: skip
    assert np.array_equal(tifffile.imread(files[3]), values[1].T)


@pytest.mark.parametrize("meta", [{}, {"filename_or_obj": "/data/case.npy"}])
def test_an_array_without_a_place_keeps_its_rows(tmp_path, meta):
    values = torch.rand(1, 5, 7)
    _, tif = saved(tmp_path, values, meta)
    assert np.array_equal(tifffile.imread(tif), values[0])


@pytest.mark.parametrize("name", ["slice.nii.gz", "slice.dcm", "slice.npy"])
def test_a_slice_with_a_place_is_a_nifti_file(tmp_path, name):
    affine = torch.tensor([[0.5, 0, 0, 3], [0, 0.7, 0, 4], [0, 0, 2, 0], [0, 0, 0, 1]]).double()
    values = torch.rand(1, 5, 7)
    (path,) = saved(tmp_path, values, {"filename_or_obj": name}, affine)
    image = nibabel.load(path)
    assert path.name == "slice_attention.nii.gz"
    assert image.shape == (5, 7)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(image.get_fdata().astype(np.float32), values[0])


def test_volumes_are_saved_as_monai_saves_them(tmp_path):
    affine = torch.diag(torch.tensor([-1.0, 2, 3, 1])).double()
    values = MetaTensor(torch.rand(1, 4, 5, 6), affine=affine, meta={"filename_or_obj": "v.nii.gz"})
    medcam.monai.SaveAttentionMapd("map", tmp_path / "ours")({"map": values})
    SaveImaged(
        "map", output_dir=tmp_path / "theirs", output_postfix="attention", resample=False
    )({"map": values})  # fmt: skip
    (ours,), (theirs,) = ((tmp_path / name).rglob("*.nii.gz") for name in ("ours", "theirs"))
    assert ours.relative_to(tmp_path / "ours") == theirs.relative_to(tmp_path / "theirs")
    ours, theirs = nibabel.load(ours), nibabel.load(theirs)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.get_data_dtype() == np.float32
