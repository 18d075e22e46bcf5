"""``medcam explain`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from medcam.explanation.case.reading import read_case
from support.nets import Classifier, UNet, balanced
from support.nnunet_toy import oblique

NETS = """
import numpy as np
import torch
from support.nets import Classifier, UNet, balanced

def unet3(channels=1):
    torch.manual_seed(0)
    return balanced(UNet(3, channels=channels), 3, channels)

def unet2():
    torch.manual_seed(0)
    return balanced(UNet(2), 2)

def rgb():
    torch.manual_seed(0)
    return Classifier(2, channels=3)

def halved(values):
    return values / 2

def cropped(values):
    return values[:, 1:]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's networks, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    (tmp_path / "users_nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("users_nets", None)


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def volume(path, channels=1, shape=(12, 10, 14)):
    values = np.random.default_rng(0).random((*shape, channels), np.float32)
    nib.save(nib.Nifti1Image(values[..., 0] if channels == 1 else values, oblique()), path)
    return np.moveaxis(values, 3, 0)


def unet3(channels=1):
    torch.manual_seed(0)
    return balanced(UNet(3, channels=channels), 3, channels)


def test_a_volume_is_explained_on_its_grid(here):
    values = volume(here / "head.nii.gz")
    done = run("--model", "users_nets.py:unet3", "-i", "head.nii.gz", "-o", "out", "--target", "1",
               "--layer", "bottleneck", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    expected = medcam.explain(
        unet3(), torch.from_numpy(values)[None], layer="bottleneck", target=1
    ).map.values[0, 0]
    saved = nib.load("out/head_layercam.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), expected)
    np.testing.assert_array_equal(saved.affine, nib.load("head.nii.gz").affine)
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        "head_layercam.nii.gz", "head_seg.nii.gz", "head_montage.png", "head.html", "head.json",
    }  # fmt: skip
    with torch.no_grad():
        predicted = unet3()(torch.from_numpy(values)[None]).argmax(1)[0]
    np.testing.assert_array_equal(np.asarray(nib.load("out/head_seg.nii.gz").dataobj), predicted)
    assert 'id="show-segmentation"' in Path("out/head.html").read_text()
    np.testing.assert_array_equal(read_case(Path("out/head.json")).segmentation, predicted)
    settings = json.loads(Path("out/head.json").read_text())["extra"]["options"]
    assert settings["model"] == "users_nets.py:unet3"
    assert settings["scale"] == "none"
    assert "class 1" in done.output


def test_windows_weights_and_methods(here):
    values = volume(here / "head.nii.gz", shape=(20, 18, 12))
    torch.save(unet3().state_dict(), here / "w.pt")
    done = run(
        "--model", "users_nets:unet3", "--weights", "w.pt", "-i", "head.nii.gz", "-o", "out",
        "--roi", "12", "12", "12", "--overlap", "0.5", "--mode", "constant", "--method", "gbp",
        "--method", "gcam", "--layer", "bottleneck", "--target", "channel 2", "--scale", "zscore",
        "--channel-weights", "volume", "--json", "--no-report", "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["layer"] == "bottleneck"
    assert said["details"]["windows"] > 1
    x = torch.from_numpy((values - values.mean()) / values.std())[None]
    expected = medcam.explain_volume(
        unet3(), x, 12, overlap=0.5, mode="constant", method=["gbp", "gcam"], layer="bottleneck",
        target=medcam.targets.class_score(2), channel_weights="volume",
    )  # fmt: skip
    for name, key in (("gbp", ("gbp", None)), ("gcam", ("gcam", "bottleneck"))):
        saved = np.asarray(nib.load(f"out/head_{name}.nii.gz").dataobj)
        wanted = expected.maps[key].values[0, 0].numpy()
        np.testing.assert_allclose(saved, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert not Path("out/head.html").exists()


def test_channels_come_from_several_files_or_one(here):
    values = volume(here / "all.nii.gz", channels=2)
    for i in range(2):
        nib.save(nib.Nifti1Image(values[i], oblique()), here / f"c{i}.nii.gz")
    base = ["--model", "users_nets:unet3", "--arg", "channels=2", "--target", "1", "--no-report",
            "--layer", "down", "-o"]  # fmt: skip
    done = run(*base, "a", "-i", "c0.nii.gz", "-i", "c1.nii.gz")
    assert done.exit_code == 0, done.output
    done = run(*base, "b", "-i", "all.nii.gz", "--channels")
    assert done.exit_code == 0, done.output
    a, b = (nib.load(path) for path in ("a/c0_layercam.nii.gz", "b/all_layercam.nii.gz"))
    np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    refused = run(*base, "c", "-i", "all.nii.gz")
    assert refused.exit_code == 2
    assert "say which one is meant" in refused.output


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_itk_images_keep_their_format_and_place(here, ending):
    values = volume(here / "a.nii.gz")
    image = sitk.ReadImage("a.nii.gz")
    sitk.WriteImage(image, f"a{ending}")
    done = run("--model", "users_nets:unet3", "-i", f"a{ending}", "-o", "out", "--target", "1",
               "--no-report")  # fmt: skip
    assert done.exit_code == 0, done.output
    (path,) = Path("out").glob("a_layercam.*")
    saved = sitk.ReadImage(str(path))
    np.testing.assert_allclose(saved.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(saved.GetOrigin(), image.GetOrigin(), atol=1e-4)
    assert saved.GetSize() == values.shape[1:]


def test_a_picture_is_explained(here):
    picture = (np.random.default_rng(0).random((20, 24, 3)) * 255).astype(np.uint8)
    Image.fromarray(picture).save("cell.png")
    done = run("--model", "users_nets:rgb", "-i", "cell.png", "-o", "out", "--scale", "255",
               "--layer", "features", "--target", "2")  # fmt: skip
    assert done.exit_code == 0, done.output
    torch.manual_seed(0)
    x = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    expected = medcam.explain(Classifier(2, channels=3).eval(), x, layer="features", target=2)
    saved = np.asarray(Image.open("out/cell_gcam.tif"))
    np.testing.assert_allclose(saved, expected.map.values[0, 0], rtol=1e-5)
    assert Path("out/cell_gcam.png").exists()


def test_a_2d_model_sees_slices(here):
    volume(here / "head.nii.gz")
    done = run("--model", "users_nets:unet2", "-i", "head.nii.gz", "-o", "out", "--target", "1",
               "--slice-axis", "2", "--layer", "bottleneck", "--no-report")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert nib.load("out/head_layercam.nii.gz").shape == (12, 10, 14)


def test_masks_are_scored_and_recorded(here):
    values = volume(here / "head.nii.gz")
    truth = (values[0] > 0.8).astype(np.uint8)
    nib.save(nib.Nifti1Image(truth, oblique()), "truth.nii.gz")
    done = run("--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", "out", "--target", "1",
               "--layer", "down", "--mask", "truth.nii.gz")  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(Path("out/head.json").read_text())
    (row,) = record["scores"] if "scores" in record else record["extra"]["scores"]
    item = medcam.explain(unet3(), torch.from_numpy(values)[None], layer="down", target=1).map
    expected = medcam.compute_score(item.values[0, 0].numpy(), truth, "relevance_mass")
    assert (row["Method"], row["Layer"]) == ("LayerCAM", "down")
    assert row[medcam.evaluation.METRICS["relevance_mass"].title] == pytest.approx(
        expected, rel=1e-5
    )
    assert row["By chance"] == pytest.approx(truth.mean())


@pytest.mark.filterwarnings("always::medcam.errors.MedcamWarning")
def test_a_map_of_zeros_is_told(here):
    volume(here / "head.nii.gz")
    ask = ["--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", "out", "--target", "1"]
    done = run(*ask, "--layer", "bottleneck")
    assert done.exit_code == 0, done.output
    assert "is zero there" not in " ".join(done.output.split())
    Path("dead.py").write_text(
        "from users_nets import unet3\n"
        "def build():\n"
        "    net = unet3()\n"
        "    net.head.weight.data[1] = 0\n"
        "    net.head.bias.data[1] = 9\n"
        "    return net\n"
    )
    ask[1] = "dead:build"
    done = run(*ask, "--layer", "down.1", "--layer", "decoder.1", "--method", "gcam")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "The target's gradient is zero at layers 'decoder.1', 'down.1'" in said
    assert said.count("the map of Grad-CAM is zero there") == 1


def test_regions_and_voxels_are_targets(here):
    values = volume(here / "head.nii.gz")
    truth = np.zeros(values.shape[1:], np.uint8)
    truth[4, 5, 6] = 1
    nib.save(nib.Nifti1Image(truth, oblique()), "roi.nii.gz")
    for name, target in (("a", "region roi.nii.gz 1"), ("b", "voxel 4,5,6 1")):
        done = run("--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", name, "--target",
                   target, "--layer", "down", "--no-report")  # fmt: skip
        assert done.exit_code == 0, done.output
    a, b = (np.asarray(nib.load(f"{n}/head_segxrescam.nii.gz").dataobj) for n in "ab")
    assert a.max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_methods_that_run_the_model_again(here):
    values = volume(here / "head.nii.gz")
    base = ["--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", "out", "--layer", "down",
            "--no-report", "--target", "channel 1", "--method", "ablationcam",
            "--method"]  # fmt: skip
    done = run(*base, "occlusion")
    assert done.exit_code == 0, done.output
    target = medcam.targets.class_score(1)
    for method in ("ablationcam", "occlusion"):
        item = medcam.explain(
            unet3(), torch.from_numpy(values)[None], layer="down", target=target, method=method
        ).map
        saved = np.asarray(nib.load(f"out/head_{method}.nii.gz").dataobj)
        np.testing.assert_allclose(saved, item.values[0, 0], rtol=1e-4, atol=1e-7)
    refused = run(*base, "occlusion", "--roi", "8", "8", "8", "--overwrite")
    assert refused.exit_code == 2
    said = " ".join(refused.output.split())
    assert "Ablation-CAM: changed features of a layer cannot be explained window by window" in said


def test_own_preprocessing(here):
    values = volume(here / "head.nii.gz")
    base = ["--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", "out", "--target", "1",
            "--layer", "down", "--no-report", "--prepare"]  # fmt: skip
    done = run(*base, "users_nets:halved")
    assert done.exit_code == 0, done.output
    expected = medcam.explain(
        unet3(), torch.from_numpy(values / 2)[None], layer="down", target=1
    ).map.values[0, 0]
    saved = np.asarray(nib.load("out/head_layercam.nii.gz").dataobj)
    np.testing.assert_allclose(saved, expected, rtol=1e-5)
    refused = run(*base, "users_nets:cropped")
    assert refused.exit_code == 2
    assert "on the image's own grid" in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "everything"], "give predicted, best, all"),
        (["--target", "voxel a,b,c 1"], "a voxel is e.g."),
        (["--target", "contrast 1 a"], "a contrast is e.g."),
        (["--target", "9"], "Class 9 does not exist"),
        (["--layer", "dawn"], "Did you mean 'down'"),
        (["--method", "gradcm"], "Method 'gradcm' does not exist"),
        (["--scale", "log"], "choose none, zscore, unit or 255"),
        (["--roi", "8", "0", "8"], "give positive whole numbers"),
        (["--roi", "8", "8"], "has 2 numbers; 3 are needed"),
        (["--roi", "8", "8", "8", "--mode", "linear"], "choose 'gaussian' or 'constant'"),
        (["--mask", "nowhere.nii.gz"], "does not exist"),
        (["--arg", "channels=3"], "The model does not run on an input of shape"),
        (["--prepare", "users_nets:nothing"], "does not exist"),
    ],
)
def test_wrong_options_are_told_in_a_line(here, arguments, message):
    volume(here / "head.nii.gz")
    done = run("--model", "users_nets:unet3", "-i", "head.nii.gz", "-o", "out", *arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not Path("out").exists()


def test_it_runs_as_a_program(here):
    volume(here / "head.nii.gz")
    done = subprocess.run(  # noqa: S603  # our own command
        [
            Path(sys.executable).with_name("medcam"), "explain", "--model", "users_nets.py:unet3",
            "-i", "head.nii.gz", "-o", "out", "--target", "1", "--roi", "8", "8", "8",
        ], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "out/head_layercam.nii.gz" in done.stdout
    assert "maps" in done.stderr  # the progress bar


@pytest.mark.parametrize("ending", [".npy", ".tif", ".jpg"])
def test_further_formats_are_explained(here, ending):
    picture = (np.random.default_rng(0).random((20, 24)) * 255).astype(np.uint8)
    if ending == ".npy":
        np.save("cell.npy", picture)
    else:
        Image.fromarray(picture).save(f"cell{ending}")
    done = run("--model", "users_nets:unet2", "-i", f"cell{ending}", "-o", "out", "--scale", "unit",
               "--layer", "full", "--target", "all", "--no-report")  # fmt: skip
    assert done.exit_code == 0, done.output
    maps = [path for path in Path("out").glob("cell_layercam*") if path.suffix in (".tif", ".npy")]
    assert len(maps) >= 3 * 5  # classes and layers
    assert {np.asarray(Image.open(p)).shape for p in maps if p.suffix == ".tif"} <= {(20, 24)}


def test_one_volume_of_a_4d_image_keeps_its_place(here):
    volume(here / "all.nii.gz", channels=3)
    base = ["--model", "users_nets:unet3", "-i", "all.nii.gz", "--target", "1", "--layer", "down",
            "--no-report", "-o"]  # fmt: skip
    refused = run(*base, "no")
    assert refused.exit_code == 2
    assert "--volume 0 to 2" in refused.output
    assert "--channels" in refused.output
    done = run(*base, "out", "--volume", "1")
    assert done.exit_code == 0, done.output
    saved = nib.load("out/all_layercam.nii.gz")
    assert saved.shape == (12, 10, 14)
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-5)


def test_what_is_wrong_is_said_before_the_model_runs(here, monkeypatch):
    volume(here / "head.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), oblique()), "mask.nii.gz")
    ran = []
    monkeypatch.setattr(UNet, "forward", lambda self, x: ran.append(x))
    base = ["--model", "users_nets:UNet", "-i", "head.nii.gz", "-o", "out", "--roi", "8", "8", "8"]
    for wrong, message in (
        (["--mask", "mask.nii.gz"], "a mask has one channel and the image's grid"),
        (["--layer", "Decoder"], "Did you mean 'decoder'"),
        (["--layer", "nowhere"], "`medcam layers`"),
    ):
        done = run(*base, *wrong)
        assert done.exit_code == 2, done.output
        assert message in done.output
    assert not ran


def test_a_folder_is_no_image(here):
    (here / "cases").mkdir()
    done = run("--model", "users_nets:unet3", "-i", "cases", "-o", "out")
    assert done.exit_code == 2
    assert "is a folder, not an image" in done.output


def test_a_model_without_weights_is_told(here):
    volume(here / "head.nii.gz")
    torch.save(unet3().state_dict(), here / "w.pt")
    (here / "users_nets.py").write_text(NETS + "\nmade = unet3().eval()\n")
    base = ["-i", "head.nii.gz", "-o", "out", "--target", "1", "--no-report", "--model"]
    told = "without --weights"
    assert told in run(*base, "users_nets:unet3").output
    assert told not in run(*base, "users_nets:unet3", "--weights", "w.pt").output
    assert told not in run(*base, "users_nets:made").output


def test_a_stop_leaves_no_file(here, monkeypatch):
    volume(here / "head.nii.gz")

    def stopped(self, x):
        raise KeyboardInterrupt

    monkeypatch.setattr(UNet, "forward", stopped)
    done = run(
        "--model", "users_nets:UNet", "-i", "head.nii.gz", "-o", "out", "--roi", "8", "8", "8"
    )
    assert done.exit_code == 130
    assert "Stopped." in done.output
    assert not (here / "out").exists()


def test_the_version():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.strip() == medcam.__version__


def test_brackets_in_the_help_are_there():
    assert "[channels, *space]" in " ".join(run("--help").output.split())


@pytest.mark.parametrize("placement", ["features", "resize"])
def test_placement_reaches_the_map(here, placement):
    volume(here / "head.nii.gz")
    done = run("--model", "users_nets.py:unet3", "-i", "head.nii.gz", "-o", "out", "--target", "1",
               "--layer", "bottleneck", "--placement", placement, "--no-report")  # fmt: skip
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(Path("out/head.json").read_text())["maps"]
    assert bool(entry["placement"]["stretched"]) == (placement == "resize")
