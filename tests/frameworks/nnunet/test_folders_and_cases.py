"""Trained folders and files of cases: valid ones are found, others are refused with a reason."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

import medcam
from medcam.errors import InputError
from medcam.explanation.case.reading import read_case
from support.nnunet_toy import make_folder, make_image, oblique, write_case


class Harmless:
    """An object that is not plain data, so that its checkpoint needs trust."""


def test_plain_checkpoints_need_no_trust(trained):
    assert medcam.nnunet.load(trained()).folds == ("0", "1")


def test_other_objects_need_trust(tmp_path):
    folder = make_folder(tmp_path, folds=(0,), extra={"odd": Harmless()})
    with pytest.raises(InputError, match=r"may run code.*--trust"):
        medcam.nnunet.load(folder)
    assert medcam.nnunet.load(folder, trust=True).folds == ("0",)


def test_networks_of_others_need_trust(tmp_path):
    folder = make_folder(tmp_path, folds=(0,))
    text = (folder / "plans.json").read_text()
    (folder / "plans.json").write_text(text.replace("torch.nn.LeakyReLU", "os.system"))
    with pytest.raises(InputError, match=r"'os\.system', which is not nnU-Net's own"):
        medcam.nnunet.load(folder)


def test_missing_parts_are_named(trained, tmp_path):
    def copy():
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(trained(), target)

    with pytest.raises(InputError, match="is not a folder"):
        medcam.nnunet.load(tmp_path / "nowhere")
    for name in ("plans.json", "dataset.json"):
        folder = copy()
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"holds no {name}"):
            medcam.nnunet.load(folder)
    folder = copy()
    with pytest.raises(InputError, match=r"Did you mean one of its folders: copy\?"):
        medcam.nnunet.load(tmp_path)
    with pytest.raises(InputError, match=r"no fold 4 .*folds with one: 0, 1"):
        medcam.nnunet.load(folder, folds=[0, 4])
    with pytest.raises(InputError, match=r"no fold at all .*Other checkpoints: checkpoint_final"):
        medcam.nnunet.load(folder, checkpoint="checkpoint_best.pth")
    (folder / "plans.json").write_text("{")
    with pytest.raises(InputError, match=r"plans.json' is damaged"):
        medcam.nnunet.load(folder)
    folder = copy()
    (folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        medcam.nnunet.load(folder)
    torch.save({"weights": {}}, folder / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(InputError, match="is not a checkpoint of nnU-Net v2"):
        medcam.nnunet.load(folder)


def test_all_folds_are_those_that_were_validated(tmp_path):
    folder = make_folder(tmp_path, folds=(0, 2, "all"))
    assert medcam.nnunet.load(folder).folds == ("0", "2")
    assert medcam.nnunet.load(folder, folds="fold_all").folds == ("all",)
    assert medcam.nnunet.load(folder, folds=2).folds == ("2",)


def test_a_cascade_needs_its_previous_stage(tmp_path, case, predicted_by_nnunet):
    folder = make_folder(
        tmp_path / "m", configuration="3d_cascade_fullres", folds=(0,), mirror=(0,)
    )
    with pytest.raises(InputError, match=r"second stage of a cascade.*3d_lowres.*--prev-stage"):
        medcam.nnunet.explain(folder, case, "PZ")
    image = nib.load(case)
    values = np.zeros(image.shape, np.uint8)
    values[6:12, 8:14, 5:10] = 1
    values[6:12, 8:14, 10:12] = 2
    (tmp_path / "prev").mkdir()
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "prev" / "case.nii.gz")
    found = medcam.nnunet.explain(
        folder, case, "PZ", method="saliency", prev_stage=tmp_path / "prev" / "case.nii.gz"
    )
    assert list(*found.importance.values()) == [
        "T2", "ADC", "previous stage, label 1", "previous stage, label 2",
    ]  # fmt: skip
    files = [case, case.with_name("case_0001.nii.gz")]
    # nnU-Net names the previous stage after the output
    predicted_by_nnunet(folder, files, tmp_path / "case", folds=(0,), previous=tmp_path / "prev")
    theirs = np.asarray(nib.load(tmp_path / "case.nii.gz").dataobj)
    np.testing.assert_array_equal(found.segmentation, theirs)
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(values[1:], image.affine), small)
    with pytest.raises(InputError, match=r"previous stage's segmentation .* has the shape"):
        medcam.nnunet.explain(folder, case, "PZ", prev_stage=small)


def test_a_network_that_is_no_cascade_takes_no_previous_stage(trained, case):
    with pytest.raises(InputError, match="is no cascade"):
        medcam.nnunet.explain(trained(), case, "PZ", prev_stage=case)


def test_files_that_do_not_make_a_case_are_refused(trained, tmp_path):
    model = medcam.nnunet.load(trained(folds=(0,)))
    first = write_case(tmp_path, make_image(), oblique())
    second = first.with_name("case_0001.nii.gz")

    def refused(files, message):
        with pytest.raises(InputError, match=message):
            medcam.nnunet.explain(model, files, "PZ")

    refused([first, second, second], r"3 files were given; the network needs 2.*T2, ADC")
    refused(tmp_path / "no.nii.gz", "There is no file")
    refused(tmp_path, "is a folder: medcam.nnunet.find_cases")
    refused([], "No file was given")
    other = tmp_path / "a.png"
    other.write_bytes(b"")
    refused(other, r"trained on files that end in '.nii.gz'")
    moved = oblique()
    moved[1, 3] += 4
    nib.save(nib.Nifti1Image(make_image()[1], moved), second)
    refused(first, "do not lie on one grid")
    second.unlink()
    refused(first, r"Channel 1 \(ADC\) is missing: there is no '.*case_0001.nii.gz'")
    nib.save(nib.Nifti1Image(make_image()[0], oblique()), tmp_path / "alone.nii.gz")
    refused(tmp_path / "alone.nii.gz", r"1 channel\(s\); the network needs 2: T2, ADC")
    first.write_bytes(b"no image")
    nib.save(nib.Nifti1Image(make_image()[1], oblique()), second)
    refused(first, "case_0000.nii.gz")


def test_an_empty_image_is_refused(trained, tmp_path):
    first = write_case(tmp_path, 0 * make_image(), oblique())
    with pytest.raises(InputError, match="zero everywhere"):
        medcam.nnunet.explain(trained(folds=(0,)), first, "PZ")


def test_cases_of_a_folder_and_of_a_table(trained, tmp_path):
    model = medcam.nnunet.load(trained())
    for name in ("b", "a"):
        write_case(tmp_path, make_image(), oblique(), name)
    found = medcam.nnunet.find_cases(model, tmp_path)
    assert [case.name for case in found] == ["a", "b"]
    assert [path.name for path in found[0].files] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    table = tmp_path / "cases.csv"
    table.write_text(
        "case_id,T2,ADC\nfirst,b_0000.nii.gz,b_0001.nii.gz\n,a_0000.nii.gz,a_0001.nii.gz\n"
    )
    assert [case.name for case in medcam.nnunet.find_cases(model, table)] == ["first", "a"]
    table.write_text("image\nb_0000.nii.gz\n")
    (case,) = medcam.nnunet.find_cases(model, table)
    assert len(case.files) == 2
    table.write_text("image,image2\nb_0000.nii.gz,missing.nii.gz\n")
    with pytest.raises(InputError, match=r"line 2: There is no file"):
        medcam.nnunet.find_cases(model, table)
    table.write_text("file\nb_0000.nii.gz\n")
    with pytest.raises(InputError, match="has the columns file; needed are image, image2"):
        medcam.nnunet.find_cases(model, table)
    table.write_text("image\n")
    with pytest.raises(InputError, match="lists no case"):
        medcam.nnunet.find_cases(model, table)
    with pytest.raises(InputError, match=r"holds no '\*_0000.nii.gz'"):
        medcam.nnunet.find_cases(model, trained())


def test_the_bottleneck_may_be_one_of_several_layers(trained, case):
    model = medcam.nnunet.load(trained())
    both = medcam.nnunet.explain(
        model, case, "PZ", method="layercam", layer=["encoder.stages.1", "bottleneck"]
    )
    assert list(both.maps) == [("layercam", "encoder.stages.1"), ("layercam", model.bottleneck)]


def test_the_record_says_how_the_maps_were_made(trained, case, tmp_path):
    found = medcam.nnunet.explain(
        trained(), case, "PZ", method=["gcam", "gbp"], layer=["encoder.stages.1", "bottleneck"][:1]
    )
    files = found.save(tmp_path / "out" / "c")
    assert [path.name for path in files] == [
        "c_gcam.nii.gz", "c_gbp.nii.gz", "c_seg.nii.gz", "c_montage.png", "c.json",
    ]  # fmt: skip
    record = json.loads(files[-1].read_text())
    assert record["folds"] == ["0", "1"]
    assert record["windows"]["mirror_axes"] == [0, 1, 2]
    assert record["windows"]["windows_explained"] <= record["windows"]["windows"]
    assert record["extra"]["label"] == "PZ"
    assert record["files"]["map"] == ["c_gcam.nii.gz", "c_gbp.nii.gz"]
    np.testing.assert_array_equal(read_case(files[-1]).segmentation, found.segmentation)
    assert [item["method"] for item in record["maps"]] == ["gcam", "gbp"]
    low, high = record["maps"][0]["range"]
    assert (low, high) == (float(found.maps["gcam", "encoder.stages.1"].min()),
                           float(found.maps["gcam", "encoder.stages.1"].max()))  # fmt: skip
    with pytest.raises(InputError, match="There are 2 maps"):
        _ = found.map


def test_a_case_name_that_ends_like_a_channel_is_kept(trained, tmp_path):
    """Only the channel's own number is cut off: two such cases were one, and overwrote files."""
    model = medcam.nnunet.load(trained(), device="cpu")
    for name in ("a_0001", "a_0002"):
        write_case(tmp_path, make_image(), oblique(), name=name)
    cases = medcam.nnunet.find_cases(model, tmp_path)
    assert [case.name for case in cases] == ["a_0001", "a_0002"]
    assert [file.name for file in cases[1].files] == [
        "a_0002_0000.nii.gz", "a_0002_0001.nii.gz",
    ]  # fmt: skip
