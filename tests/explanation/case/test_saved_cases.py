"""The files that `Explanation.save` writes, their contents, and when it leaves no record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image as Pillow

import medcam
from medcam.errors import InputError, InputTypeError, MaskError, MedcamWarning, SaveError
from medcam.explanation.case.names import safe_prefix
from medcam.explanation.case.reading import read_case
from medcam.files import read_image, save_nifti
from medcam.files.record import sidecar
from medcam.views import overlay
from support.nets import Classifier, UNet, image

AFFINE = np.array([[0, 0, -2.0, 40], [1.5, 0, 0, -8], [0, -3.0, 0, 5], [0, 0, 0, 1]])


@pytest.fixture
def net3d():
    return Classifier(3).eval()


@pytest.fixture
def net2d():
    return Classifier(2).eval()


def placed(batch=1, size=12):
    """Return images with an affine."""
    return MetaTensor(image(3, batch, size), affine=torch.from_numpy(AFFINE))


def names(files):
    return [path.name for path in files]


def pixels(path):
    with Pillow.open(path) as picture:
        return np.array(picture)


def record(files):
    return sidecar.read_sidecar(files[-1])


# ----------------------------------------------------------------------------- the files


def test_a_volume(net3d, tmp_path):
    explanation = medcam.explain(net3d, placed(), method=["gcam", "gbp"])
    files = explanation.save(tmp_path / "new" / "case")
    assert names(files) == [
        "case_gcam.nii.gz", "case_gbp.nii.gz", "case_image.nii.gz", "case_montage.png",
        "case.html", "case.json",
    ]  # fmt: skip
    assert sorted(names(files)) == sorted(path.name for path in (tmp_path / "new").iterdir())
    for path, map_ in zip(files, explanation.maps.values(), strict=False):
        saved = nib.load(path)
        assert saved.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(saved.dataobj), map_.values[0, 0].numpy())
        np.testing.assert_allclose(saved.affine, AFFINE)
    theirs = sitk.ReadImage(str(files[0]))
    place = AFFINE @ [3, 1, 2, 1]
    at = theirs.TransformIndexToPhysicalPoint((3, 1, 2))
    np.testing.assert_allclose(np.array([-1, -1, 1]) * at, place[:3], atol=1e-5)
    np.testing.assert_array_equal(
        np.asarray(nib.load(files[2]).dataobj), explanation.inputs[0, 0].numpy()
    )
    assert pixels(files[3]).shape[1] > 600
    assert "<!doctype html>" in files[4].read_text()


def test_a_picture(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1), target=2)
    files = explanation.save(tmp_path / "case")
    assert names(files) == [
        "case_gcam.tif", "case_gcam.png", "case_image.tif", "case_montage.png", "case.html",
        "case.json",
    ]  # fmt: skip
    values = explanation.map.values[0, 0].numpy()
    np.testing.assert_array_equal(pixels(files[0]), values)
    picture = explanation.inputs[0, 0].numpy()
    np.testing.assert_array_equal(pixels(files[1]), overlay(values, picture))
    np.testing.assert_array_equal(pixels(files[2]), picture)


def test_montage_and_report_can_be_left_out(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1))
    files = explanation.save(tmp_path / "case", montage=False, report=False)
    assert names(files) == ["case_gcam.tif", "case_gcam.png", "case_image.tif", "case.json"]


def test_the_segmentation_is_saved_and_shown(tmp_path):
    whole = medcam.targets.class_score(1)
    net = UNet(3).eval()
    explanation = medcam.explain(net, placed(2), target=whole)
    labels = torch.randint(0, 3, (2, 12, 12, 12))
    files = explanation.save(tmp_path / "new" / "case", segmentation=labels, montage=False)
    seconds = [path for path in files if path.name.startswith("case_1")]
    assert names(seconds) == [
        "case_1_layercam.nii.gz", "case_1_image.nii.gz", "case_1_seg.nii.gz", "case_1.html",
        "case_1.json",
    ]  # fmt: skip
    saved = nib.load(seconds[2])
    np.testing.assert_array_equal(np.asarray(saved.dataobj), labels[1].numpy())
    np.testing.assert_allclose(saved.affine, AFFINE)
    assert record(seconds)["files"]["segmentation"] == ["case_1_seg.nii.gz"]
    reread = read_case(seconds[-1])
    np.testing.assert_array_equal(reread.segmentation, labels[1].numpy())
    assert reread.mask is None

    first = medcam.explain(net, placed(1), target=whole)
    files = first.save(tmp_path / "other", segmentation=seconds[2], montage=False)
    assert not (tmp_path / "other_seg.nii.gz").exists()  # it is a file already
    np.testing.assert_array_equal(read_case(files[-1]).segmentation, labels[1].numpy())
    page = first.show(segmentation=labels[:1], browser=False).read_text()
    assert 'id="show-segmentation"' in page
    assert 'id="show-mask"' not in page
    with pytest.raises(MaskError, match=r"segmentation is \[12, 12, 13\]"):
        first.save(tmp_path / "bad", segmentation=np.zeros((12, 12, 13)))
    assert not list(tmp_path.glob("bad*"))


def test_file_names_contain_layers_and_classes(tmp_path):
    net = Classifier(3).eval()
    explanation = medcam.explain(
        net, placed(), layer=["features.0", "features"], method=["gcam", "gbp"],
        target=medcam.targets.classes(2, 0),
    )  # fmt: skip
    files = explanation.save(tmp_path / "c", montage=False, report=False)
    assert names(files) == [
        "c_gcam_features.0_class2.nii.gz", "c_gcam_features.0_class0.nii.gz",
        "c_gcam_features_class2.nii.gz", "c_gcam_features_class0.nii.gz",
        "c_gbp_class2.nii.gz", "c_gbp_class0.nii.gz", "c_image.nii.gz", "c.json",
    ]  # fmt: skip
    flat = [
        map_.values[0, target].numpy() for map_ in explanation.maps.values() for target in range(2)
    ]
    for path, values in zip(files, flat, strict=False):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), values)
    about = record(files)
    assert about["files"]["map"] == names(files)[:6]
    assert [entry["target"]["class"] for entry in about["maps"]] == [2, 0] * 3
    assert [entry["layer"] for entry in about["maps"]] == [
        "features.0", "features.0", "features", "features", None, None,
    ]  # fmt: skip
    for entry, values in zip(about["maps"], flat, strict=True):
        assert entry["range"] == [float(values.min()), float(values.max())]


def test_the_same_class_twice_is_two_files(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1), target=medcam.targets.classes(1, 1))
    files = explanation.save(tmp_path / "c", montage=False, report=False)
    assert names(files)[:2] == ["c_gcam_target0.tif", "c_gcam_target1.tif"]


def test_each_sample_is_a_case(net3d, tmp_path):
    affines = torch.stack([torch.from_numpy(AFFINE), torch.eye(4, dtype=torch.float64)])
    inputs = MetaTensor(image(3, 2), affine=affines)
    inputs.is_batch = True
    masks = (image(3, 2) > 0.5).float()
    explanation = medcam.explain(net3d, inputs, target=[0, 2])
    scores = [{"sample": 1, "dice": 0.5}, {"note": "both"}]
    files = explanation.save(tmp_path / "c", mask=masks, scores=scores, montage=False)
    assert names(files) == [
        f"c_{sample}{ending}"
        for sample in range(2)
        for ending in ("_gcam.nii.gz", "_image.nii.gz", "_mask.nii.gz", ".html", ".json")
    ]
    for sample, affine in enumerate(affines):
        sample_files = files[5 * sample : 5 * sample + 5]
        np.testing.assert_array_equal(
            np.asarray(nib.load(sample_files[0]).dataobj), explanation.map.values[sample, 0].numpy()
        )
        np.testing.assert_allclose(nib.load(sample_files[0]).affine, affine)
        np.testing.assert_array_equal(
            np.asarray(nib.load(sample_files[2]).dataobj), masks[sample, 0].numpy()
        )
        about = record(sample_files)
        assert about["extra"]["name"] == f"c, sample {sample}"
        (entry,) = about["maps"]
        assert (entry["sample"], entry["target"]["class"]) == (sample, (0, 2)[sample])
        assert about["inputs"][0]["sha256"] == medcam.files.record.digests.sha256_of_array(
            inputs[sample : sample + 1]
        )
        assert about["extra"]["scores"] == [[{"note": "both"}], scores][sample]
    with pytest.raises(InputError, match="There are 2 samples: give a list of 2 images"):
        explanation.save(tmp_path / "d", image=files[1])
    with pytest.raises(InputError, match="3 images for 2 samples"):
        explanation.save(tmp_path / "d", image=[files[1]] * 3)
    resaved = explanation.save(tmp_path / "e", image=[files[1], files[6]], montage=False)
    assert names(resaved)[1] == "e_0.html"  # images that are files are not written anew


def test_maps_of_the_layers_own_size_are_brought_to_the_image(net3d, tmp_path):
    inputs = placed()
    explanation = medcam.explain(net3d, inputs, shape=None)
    files = explanation.save(tmp_path / "c", montage=False)
    coarse = explanation.map.values
    expected = torch.nn.functional.interpolate(coarse, (12, 12, 12), mode="trilinear")[0, 0]
    saved = np.asarray(nib.load(files[0]).dataobj)
    np.testing.assert_allclose(saved, expected.numpy(), rtol=1e-5, atol=1e-9)
    assert record(files)["maps"][0]["shape"] == [12, 12, 12]
    with pytest.raises(InputError, match="unknown whether they cover the same region"):
        explanation.save(tmp_path / "d", image=np.ones((12, 12, 13)))


# ----------------------------------------------------------------------------- the image


def test_the_geometry_is_that_of_the_image(net3d, tmp_path):
    inputs = image(3, 1)
    path = save_nifti(tmp_path / "t1.nii.gz", inputs[0, 0], AFFINE)
    explanation = medcam.explain(net3d, inputs)
    for number, source in enumerate(
        [path, str(path), read_image(path), MetaTensor(inputs[0], affine=torch.tensor(AFFINE))]
    ):
        files = explanation.save(tmp_path / f"c{number}", image=source, montage=False)
        np.testing.assert_allclose(nib.load(files[0]).affine, AFFINE)
        about = record(files)
        assert about["geometry"]["orientation"] == "".join(nib.aff2axcodes(AFFINE))
        assert about["files"]["image"] == (["t1.nii.gz"] if number < 3 else ["c3_image.nii.gz"])
        of = [entry["of"] for entry in about["inputs"]]
        assert of == (["array", "file"] if number < 3 else ["array", "array"])
    header = nib.load(tmp_path / "c0_gcam.nii.gz").header
    source = nib.load(path).header
    assert header["sform_code"] == source["sform_code"]


def test_unknown_geometry_is_the_identity_with_a_warning(net3d, tmp_path):
    explanation = medcam.explain(net3d, image(3, 1))
    with pytest.warns(MedcamWarning, match="without its image's geometry") as caught:
        files = explanation.save(tmp_path / "c")
    assert len(caught) == 1
    np.testing.assert_array_equal(nib.load(files[0]).affine, np.eye(4))
    assert record(files)["geometry"] is None
    assert "orientation unknown" in files[-2].read_text()


def test_other_formats_keep_their_place(net3d, tmp_path):
    inputs = image(3, 1)
    header = sitk.GetImageFromArray(inputs[0, 0].numpy().transpose(2, 1, 0))
    header.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(header, tmp_path / "a.mha")
    explanation = medcam.explain(net3d, inputs)
    files = explanation.save(tmp_path / "c", image=tmp_path / "a.mha", montage=False)
    assert files[0].name == "c_gcam.nii.gz"
    ours = sitk.ReadImage(str(files[0]))
    for index in ((0, 0, 0), (3, 5, 7)):
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(index), header.TransformIndexToPhysicalPoint(index)
        )


def test_a_colour_picture(tmp_path):
    net = Classifier(2, channels=3).eval()
    photo = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Pillow.fromarray(photo).save(tmp_path / "photo.png")
    inputs = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    explanation = medcam.explain(net, inputs)
    files = explanation.save(tmp_path / "a", image=tmp_path / "photo.png", montage=False)
    values = explanation.map.values[0, 0].numpy()
    np.testing.assert_array_equal(pixels(files[1]), overlay(values, photo))
    files = explanation.save(tmp_path / "b", montage=False)
    assert files[2].name == "b_image.tif"
    reread = read_image(files[2], as_channels=True)
    np.testing.assert_array_equal(reread.array, inputs[0].numpy())


def test_an_explanation_without_input_needs_an_image(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1))
    injected = medcam.inject(net2d)
    injected(explanation.inputs)
    remembered = injected.get_explanation()
    assert remembered.inputs is None
    with pytest.raises(InputError, match=r"does not hold its input.*save\(prefix, image=...\)"):
        remembered.save(tmp_path / "c")
    files = remembered.save(tmp_path / "c", image=explanation.inputs, report=False)
    assert files[-1].name == "c.json"


# ----------------------------------------------------------------------------- the record


def test_the_contents_of_the_record(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1), target=1)
    scores = [{"method": "Grad-CAM", "dice": 0.25, "hd95": float("nan")}]
    files = explanation.save(
        tmp_path / "c", name="Case 7", scores=scores, extra={"modality": "XR", "site": 3}
    )
    about = record(files)
    assert about["model"]["state_sha256"] == medcam.files.record.digests.sha256_of_model(net2d)
    assert about["extra"] == {
        "name": "Case 7", "modality": "XR", "site": 3,
        "scores": [{"method": "Grad-CAM", "dice": 0.25, "hd95": None}],
    }  # fmt: skip
    assert about["files"] == {
        "map": ["c_gcam.tif"], "overlay": ["c_gcam.png"], "image": ["c_image.tif"],
    }  # fmt: skip
    page = files[-2].read_text()
    assert "<title>Case 7" in page
    assert about["model"]["state_sha256"] in page


def test_windows_of_a_volume_are_in_the_record(tmp_path):
    net = UNet(3).eval()
    volume = image(3, 1, 16)
    explanation = medcam.explain_volume(
        net, volume, 12, layer="bottleneck", target=medcam.targets.class_score(1)
    )
    files = explanation.save(
        tmp_path / "c", image=placed(1, 16)[0], model=net, montage=False, report=False
    )
    assert record(files)["windows"]["roi"] == [12, 12, 12]


def _wrong_place(folder):
    (folder / "case_montage.png").mkdir()


def _wrong_page(folder):
    (folder / "case.html").mkdir()


@pytest.mark.parametrize("block", [_wrong_place, _wrong_page])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_case_that_fails_has_no_record(net2d, tmp_path, block, earlier):
    explanation = medcam.explain(net2d, image(2, 1))
    if earlier:
        explanation.save(tmp_path / "case", montage=False, report=False)
    block(tmp_path)
    with pytest.raises(SaveError):
        explanation.save(tmp_path / "case")
    assert not (tmp_path / "case.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_json_cannot_hold_leaves_no_record(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1))
    explanation.save(tmp_path / "case", montage=False, report=False)
    with pytest.raises(InputTypeError, match="JSON"):
        explanation.save(tmp_path / "case", extra={"made": object()})
    assert not (tmp_path / "case.json").exists()


def test_a_call_that_is_refused_changes_nothing(net2d, tmp_path):
    explanation = medcam.explain(net2d, image(2, 1))
    explanation.save(tmp_path / "case")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError):
        explanation.save(tmp_path / "case", mask=np.ones((3, 3)))
    with pytest.raises(InputError):
        explanation.save(tmp_path / "case", image=np.ones((2, 1, 3, 3)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_run_writes_the_same_maps_and_montage(net3d, tmp_path):
    explanation = medcam.explain(net3d, placed())
    first = {path.name: path.read_bytes() for path in explanation.save(tmp_path / "c")}
    second = {path.name: path.read_bytes() for path in explanation.save(tmp_path / "c")}
    for name in ("c_montage.png", "c_gcam.nii.gz"):
        assert first[name] == second[name]
    first, second = (json.loads(files["c.json"]) for files in (first, second))
    assert {**first, "created": 0} == {**second, "created": 0}


# ----------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["<script>alert(1)<", "a:b", "..x", "nul", " x", "x" * 300, "é"])
def test_any_name_of_a_case_is_one_file_name(net2d, tmp_path, name):
    explanation = medcam.explain(net2d, image(2, 1))
    files = explanation.save(os.fspath(tmp_path / "out") + "/" + name, montage=False)
    assert {path.parent for path in files} == {tmp_path / "out"}
    for path in files:
        assert path.exists()
        assert not set(path.name) & set('<>:"/\\|?*\n')
        assert len(path.name.encode()) < 255
    assert record(files)["extra"]["name"] == name
    assert "<script>alert" not in files[-2].read_text()


def test_names_that_are_escaped_stay_as_they_are():
    once = safe_prefix("out/a:b")
    assert safe_prefix(once) == once
    assert safe_prefix("out/case.1") == Path("out/case.1")
    for wrong in ("", ".", "out/", "/"):
        with pytest.raises(InputError, match="is a folder: add a name for the case"):
            safe_prefix(wrong)


def test_names_of_layers_are_escaped(tmp_path):
    net = torch.nn.Sequential()
    for name, classes in (("a/b", 1), ("a:b", 1), ("x" * 119, 2)):
        net.add_module(name, torch.nn.Conv2d(1, classes, 3, padding=1))
    net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", torch.nn.Flatten())
    with torch.no_grad():
        for weight in net.parameters():
            weight.abs_()
    explanation = medcam.explain(
        net, image(2, 1), layer=["a/b", "a:b", "x" * 119], method="segxrescam",
        target="all",
    )  # fmt: skip
    files = explanation.save(tmp_path / "c" / ("long" * 30), montage=False, report=False)
    assert len({path.name.casefold() for path in files}) == len(files) == 14
    assert {path.parent for path in files} == {tmp_path / "c"}
    assert all(path.exists() and len(path.name) < 255 for path in files)


def test_what_is_known_of_the_layer_is_in_the_record_and_on_the_page(tmp_path):
    from medcam import demo

    net = demo.load_nuclei_segmenter()
    with pytest.warns(MedcamWarning, match="hardly uses layer 'bottleneck'"):
        found = medcam.explain(net, demo.load_nuclei().images[:1])
    files = found.save(tmp_path / "tile")
    explained = record(files)["extra"]["explained"]
    assert explained["automatic_layer"] == found.details["automatic_layer"]
    assert explained["layers_passed_over"][0]["layer"] == "bottleneck"
    assert record(files)["windows"] is None
    page = (tmp_path / "tile.html").read_text()
    assert "explained · automatic_layer · dice_without" in page
