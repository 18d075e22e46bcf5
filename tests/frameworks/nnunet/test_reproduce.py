"""Cases of a trained nnU-Net, made again from their records."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from support.nnunet_toy import make_folder, make_image, oblique, write_case

OWN = """
from medcam.methods import Method

def mean(activations):
    return activations.mean(1)

own = Method("own", mean, "My own")
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def copied(trained, case, tmp_path):
    """A trained folder of two folds, mirrored, and a case, that a test may change."""
    shutil.copytree(trained(), tmp_path / "trained")
    shutil.copytree(case.parent, tmp_path / "images")
    return tmp_path / "trained", tmp_path / "images" / case.name


def explain(folder, image, out, *options):
    done = run(
        "nnunet", "explain", "-m", folder, "-i", image, "-o", out, "--device", "cpu", *options
    )
    assert done.exit_code == 0, done.output
    return out / "case.json"


def edited(record, edit):
    values = json.loads(record.read_text())
    edit(values)
    record.write_text(json.dumps(values))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:.*cannot explain a part")
def test_folds_mirroring_and_a_region_are_repeated(copied, tmp_path):
    folder, image = copied
    first = nib.load(image)
    values = np.zeros(first.shape, np.uint8)
    values[7:12, 8:13, 5:9] = 1
    nib.save(nib.Nifti1Image(values, first.affine), tmp_path / "region.nii.gz")
    (tmp_path / "own_method.py").write_text(OWN)
    record = explain(
        folder, image, tmp_path / "out", "--label", "TZ", "--target", tmp_path / "region.nii.gz",
        "--method", "gcam", "--method", f"{tmp_path}/own_method.py:own", "--method", "gbp",
        "--layer", "encoder.stages.1", "--layer", "encoder.stages.2", "--step-size", "1.0",
        "--channel-weights", "window", "--batch-size", "2", "--placement", "resize",
    )  # fmt: skip
    before = contents(tmp_path / "out")
    done = run("reproduce", record)
    assert done.exit_code == 2
    assert f"--method {tmp_path}/own_method.py:own" in done.stderr
    done = run("reproduce", record, "--trust", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [(item["method"], item["layer"]) for item in said["maps"]] == [
        ("gcam", "encoder.stages.1"), ("gcam", "encoder.stages.2"),
        ("own", "encoder.stages.1"), ("own", "encoder.stages.2"), ("gbp", None),
    ]  # fmt: skip
    assert all(item["same"] and item["difference"] == 0 for item in said["maps"])
    assert said["changes"] == []
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_no_mirroring_and_one_fold_in_a_moved_folder(copied, tmp_path):
    folder, image = copied
    record = explain(folder, image, tmp_path / "out", "--label", "PZ", "--no-tta", "-f", "1")
    recipe = json.loads(record.read_text())["extra"]["recipe"]
    assert recipe["options"]["tta"] is False
    assert recipe["options"]["folds"] == ["1"]
    assert [entry["fold"] for entry in recipe["files"]["checkpoint"]] == ["1"]
    (tmp_path / "all").mkdir()
    for name in ("trained", "images", "out"):
        shutil.move(tmp_path / name, tmp_path / "all" / name)
    record = tmp_path / "all" / "out" / "case.json"
    done = run("reproduce", record, "-o", tmp_path / "again")
    assert done.exit_code == 0, done.output
    first, second = (
        nib.load(at / "case_layercam.nii.gz") for at in (record.parent, tmp_path / "again")
    )
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert (tmp_path / "again" / "case_seg.nii.gz").is_file()
    shutil.move(record.parent, tmp_path / "far" / "away")
    record = tmp_path / "far" / "away" / "case.json"
    done = run("reproduce", record)
    assert done.exit_code == 2
    assert "--image PATH, or the folder that it is in, --search FOLDER" in done.stderr
    done = run("reproduce", record, "--search", tmp_path / "all" / "images")
    assert done.exit_code == 2
    assert "Give its place: --model FOLDER." in done.stderr
    done = run("reproduce", record, "--search", tmp_path / "all" / "images",
               "--model", tmp_path / "all" / "trained")  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_record_of_python_can_be_reproduced_as_well(copied, tmp_path):
    folder, image = copied
    found = medcam.nnunet.explain(folder, image, "PZ", target="component", device="cpu")
    record = found.save(tmp_path / "out" / "case", montage=False)[-1]
    done = run("reproduce", record)
    assert done.exit_code == 0, done.output
    assert all(item.same for item in found.compare(record))
    other = medcam.nnunet.explain(folder, image, "TZ", target="component", device="cpu")
    (item,) = other.compare(record)
    assert not item.same
    assert item.difference == np.abs(found.map.astype(float) - other.map).max()


@pytest.mark.slow
def test_a_method_of_pythons_own_has_no_name_for_a_command(copied, tmp_path):
    folder, image = copied
    own = medcam.methods.Method("own", lambda activations: activations.mean(1), "My own")
    found = medcam.nnunet.explain(folder, image, "PZ", method=own, device="cpu")
    record = found.save(tmp_path / "out" / "case", montage=False)[-1]
    done = run("reproduce", record)
    assert done.exit_code == 2
    assert "were made in Python" in done.stderr


@pytest.mark.slow
def test_what_changed_in_the_folder_and_the_images_is_told(copied, tmp_path):
    folder, image = copied
    record = explain(folder, image, tmp_path / "out", "--label", "PZ")
    path = folder / "fold_1" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    torch.save(state, path.with_name("same.pth"))  # other bytes, the same weights
    name = next(key for key in state["network_weights"] if key.endswith("weight"))
    state["network_weights"][name] += 0.5
    torch.save(state, path)
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "note": 1}))
    write_case(image.parent, make_image() + 1, oblique())
    done = run("reproduce", record)
    assert done.exit_code == 1
    told = " ".join(done.stderr.split())
    assert f"Changed: checkpoint '{path}' is not the recorded one" in told
    assert f"Changed: description '{folder / 'plans.json'}'" in told
    assert told.count("Changed: image") == 2
    assert "changed   checkpoint 'checkpoint_final.pth', sha256: " in done.stdout
    assert "changed   weights of fold 1, sha256: " in done.stdout
    assert "weights of fold 0" not in done.stdout
    assert "differs   layercam, " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda recipe: recipe["options"].update(folds=["../../x"]), "no fold ../../x"),
        (lambda recipe: recipe["options"].update(checkpoint="../c.pth"), "is not the name of a"),
        (lambda recipe: recipe["options"].update(label=3), "its label is '3'"),
        (lambda recipe: recipe["options"].update(tta="yes"), "its tta is 'yes'"),
        (lambda recipe: recipe["options"].pop("case"), "its case is 'None'"),
        (lambda recipe: recipe["options"].update(more=1), "the option 'more'"),
        (lambda recipe: recipe["options"].update(step_size=1e-9), "its step_size is 1e-09"),
        (lambda recipe: recipe["options"].update(batch_size=-1), "has to be at least 1"),
        (lambda recipe: recipe["options"].update(target=["a"]), "give 'predicted'"),
        (lambda recipe: recipe["files"].pop("trained folder"), "cannot be made again"),
        (lambda recipe: recipe["files"]["checkpoint"][0].update(path="."), "does not exist"),
        (lambda recipe: recipe["files"].update(image=[]), ""),
    ],
)
def test_hostile_records_are_errors_of_a_line(copied, tmp_path, edit, message):
    folder, image = copied
    record = explain(folder, image, tmp_path / "out", "--label", "PZ", "-f", "0", "--no-tta")
    edited(record, lambda values: edit(values["extra"]["recipe"]))
    done = run("reproduce", record)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert message in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_folder_that_needed_trust_needs_it_again(copied, tmp_path):
    folder, image = copied
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    torch.save({**state, "logger": Path("a")}, path)
    record = explain(folder, image, tmp_path / "out", "--label", "PZ", "-f", "0", "--trust")
    done = run("reproduce", record)
    assert done.exit_code == 2
    assert "holds more than plain data" in done.stderr
    assert run("reproduce", record, "--trust").exit_code == 0


@pytest.mark.slow
def test_a_cascade_with_its_previous_stage(copied, tmp_path):
    _, image = copied
    folder = make_folder(
        tmp_path / "cascade", configuration="3d_cascade_fullres", folds=(0,), mirror=(0,)
    )
    first = nib.load(image)
    values = np.zeros(first.shape, np.uint8)
    values[6:12, 8:14, 5:10] = 1
    previous = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(values, first.affine), previous)
    record = explain(
        folder, image, tmp_path / "out", "--label", "PZ", "--prev-stage", previous,
        "--method", "saliency",
    )  # fmt: skip
    done = run("reproduce", record)
    assert done.exit_code == 0, done.output
    values[6:12, 8:14, 10:12] = 2
    nib.save(nib.Nifti1Image(values, first.affine), previous)
    done = run("reproduce", record)
    assert done.exit_code == 1
    assert "changed   previous stage 'case.nii.gz', sha256: " in done.stdout


@pytest.mark.slow
def test_one_of_several_cases_of_a_table(copied, tmp_path):
    folder, image = copied
    write_case(image.parent, make_image(seed=1), oblique(), "other")
    table = image.parent / "cases.csv"
    table.write_text(
        "case_id,image,image2\np1,case_0000.nii.gz,case_0001.nii.gz\n"
        "p2,other_0000.nii.gz,other_0001.nii.gz\n"
    )
    done = run("nnunet", "explain", "-m", folder, "-i", table, "-o", tmp_path / "out",
               "--label", "PZ", "-f", "0", "--no-tta", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = run("reproduce", tmp_path / "out" / "p2.json")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_pictures(trained, tmp_path):
    rng = np.random.default_rng(0)
    for channel in range(2):
        picture = (rng.random((40, 33)) * 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"case_{channel:04d}.png")
    folder = trained(
        configuration="2d", reader="NaturalImage2DIO", ending=".png", transpose=(0, 1, 2),
        spacing=(1.0, 1.0, 1.0), folds=(0,),
    )  # fmt: skip
    record = explain(folder, tmp_path / "case_0000.png", tmp_path / "out", "--label", "PZ")
    done = run("reproduce", record, "--json")
    assert done.exit_code == 0, done.output
    (item,) = json.loads(done.stdout)["maps"]
    assert (item["file"], item["difference"]) == ("case_layercam.tif", 0)


@pytest.mark.slow
def test_an_absent_label_is_a_zero_map_again(trained, case, tmp_path):
    record = explain(trained(folds=(0,)), case, tmp_path, "--label", "PZ", "--no-tta")
    found = medcam.nnunet.explain(trained(folds=(0,)), case, "PZ", tta=False, device="cpu")
    zero = dataclasses.replace(
        found, maps={key: np.zeros_like(values) for key, values in found.maps.items()}
    )
    zero.save(tmp_path / "zero", montage=False)
    assert all(item.same for item in zero.compare(tmp_path / "zero.json"))
    (item,) = zero.compare(record)
    assert (item.relative, item.correlation, item.same) == (1.0, None, False)
