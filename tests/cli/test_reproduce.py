"""``medcam reproduce``: the same map, bit for bit, or what changed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy.stats import spearmanr
from typer.testing import CliRunner

from medcam.cli import app
from support.nets import UNet, balanced
from support.nnunet_toy import oblique

NETS = """
import numpy as np
import torch
import layers_of_user
from support.nets import Classifier, UNet, balanced

def unet3(channels=1):
    torch.manual_seed(0)
    return balanced(UNet(3, channels=channels), 3, channels)

class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = unet3()

    def forward(self, x):
        return x, self.inner(x)

def unet2():
    torch.manual_seed(0)
    return balanced(UNet(2), 2)

def random():
    return Classifier(2)

class Doubled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = Classifier(2).double()

    def forward(self, x):
        return self.inner(x.double())

def rgb():
    torch.manual_seed(0)
    return Classifier(2, channels=3)

def halved(values):
    return values / 2

def mean(activations):
    return activations.mean(1)

from medcam.methods import Method
own = Method("own", mean, "My own")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's networks, to work in."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    (work / "users_nets.py").write_text(NETS)
    (work / "layers_of_user.py").write_text("WIDTH = 4\n")
    path = list(sys.path)
    yield work
    forget()
    sys.path[:] = path


def forget():
    """Forget the user's modules, as a new process has not imported them."""
    for name in ("users_nets", "users_nets_of_user", "layers_of_user"):
        sys.modules.pop(name, None)


def run(*arguments):
    forget()
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def explain(*arguments, model="users_nets.py:unet3"):
    done = run("explain", "-m", model, "-o", "out", "--no-report", "--device", "cpu", *arguments)
    assert done.exit_code == 0, done.output


def reproduce(*arguments, record="out/head.json", trust=True):
    return run("reproduce", record, *(["--trust"] if trust else []), *arguments)


def result(done):
    return json.loads(done.stdout)


def volume(path, channels=1, shape=(12, 10, 14), seed=0):
    values = np.random.default_rng(seed).random((*shape, channels), np.float32)
    nib.save(nib.Nifti1Image(values[..., 0] if channels == 1 else values, oblique()), path)


def changed(path, edit):
    record = json.loads(Path(path).read_text())
    edit(record)
    Path(path).write_text(json.dumps(record))


def files():
    return {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}


def test_the_same_map_is_made_again_and_nothing_is_written(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "bottleneck")
    before = files()
    done = reproduce()
    assert done.exit_code == 0, done.output
    digest = json.loads(Path("out/head.json").read_text())["maps"][0]["sha256"]
    assert done.stdout.split("\n")[0] == (
        "same      layercam, bottleneck, class 1, over the voxels predicted as such: "
        f"sha256 {digest}"
    )
    assert "changed" not in done.stdout
    assert files() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::medcam.MedcamWarning")
def test_every_option_of_the_maps_is_repeated(here):
    """Windows, weights, own preprocessing, an own method, several methods and layers, a region."""
    volume("head.nii.gz", shape=(20, 18, 12))
    mask = np.zeros((20, 18, 12), np.uint8)
    mask[5:9, 4:8, 3:7] = 1
    nib.save(nib.Nifti1Image(mask, oblique()), "a region.nii.gz")
    torch.manual_seed(3)
    torch.save(balanced(UNet(3), 3).state_dict(), "w.pt")
    explain(
        "-i", "head.nii.gz", "--weights", "w.pt", "--roi", "12", "12", "12", "--overlap", "0.5",
        "--mode", "constant", "--channel-weights", "window", "--placement", "resize",
        "--method", "gcam", "--method", "users_nets.py:own", "--method", "gbp",
        "--layer", "bottleneck", "--layer", "down", "--target", "region a region.nii.gz 2",
        "--scale", "unit", "--prepare", "users_nets.py:halved", "--mask", "a region.nii.gz",
    )  # fmt: skip
    record = json.loads(Path("out/head.json").read_text())
    roles = {role: len(entries) for role, entries in record["extra"]["recipe"]["files"].items()}
    assert roles == {
        "working folder": 1, "image": 1, "weights": 1, "region": 1, "code": 3, "imported code": 1,
    }  # fmt: skip
    done = reproduce("--json")
    assert done.exit_code == 0, done.output
    said = result(done)
    assert [(item["method"], item["layer"]) for item in said["maps"]] == [
        ("gcam", "bottleneck"), ("gcam", "down"), ("own", "bottleneck"), ("own", "down"),
        ("gbp", None),
    ]  # fmt: skip
    assert len({item["recorded"] for item in said["maps"]}) == 5
    assert all(item["same"] and item["difference"] == 0 for item in said["maps"])
    assert said["changes"] == []
    assert "Changed" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--layer", "full"],
        ["--target", "all", "--layer", "down"],
        ["--target", "voxel 4,5,6 2", "--layer", "down"],
        ["--target", "channel 2", "--method", "hirescam", "--layer", "down"],
        ["--select", "1", "--layer", "inner.down", "-m", "users_nets.py:Pair"],
    ],
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::medcam.MedcamWarning")
def test_layers_and_targets(here, options):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", *options)
    done = reproduce()
    assert done.exit_code == 0, done.output
    stored = json.loads(Path("out/head.json").read_text())["maps"]
    assert done.stdout.count("same ") == len(stored)
    assert done.stdout.count("sha256") == len(stored)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::medcam.MedcamWarning")
@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("a.nrrd", "unet3", []),
        ("a.mha", "unet3", []),
        ("a.mhd", "unet3", []),
        ("a.npy", "unet3", ["--slices"]),
        ("a.png", "unet2", ["--target", "1"]),
        ("rgb.png", "rgb", ["--scale", "255"]),
        ("wide.nii", "unet2", ["--slice-axis", "2"]),
        ("thin.nii.gz", "unet2", ["--slice-axis", "2"]),
        ("double.png", "Doubled", []),
        ("flat.nii", "unet2", []),
        ("flat.mha", "unet2", []),
        ("thin.mha", "unet2", ["--slice-axis", "2"]),
        ("first.nii.gz", "unet2", ["--slice-axis", "0"]),
    ],
)
def test_formats_and_dtypes(here, name, model, options):
    """The file that was written holds the recorded map, whatever its format drops."""
    rng = np.random.default_rng(0)
    if name == "flat.nii":
        nib.save(nib.Nifti1Image(rng.random((16, 12), np.float32), oblique()), name)
    elif name in ("flat.mha", "thin.mha"):
        shape = (16, 12) if name == "flat.mha" else (1, 16, 12)
        sitk.WriteImage(sitk.GetImageFromArray(rng.random(shape, np.float32)), name)
    elif name == "first.nii.gz":
        volume(name, shape=(1, 16, 12))
    elif name.endswith((".nrrd", ".mha", ".mhd")):
        volume("a.nii.gz")
        sitk.WriteImage(sitk.ReadImage("a.nii.gz"), name)
    elif name.endswith(".npy"):
        np.save(name, rng.random((12, 10, 14), np.float32))
    elif name.endswith(".png"):
        shape = (20, 24, 3) if name == "rgb.png" else (20, 24)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(name)
    else:
        volume(name, shape=(16, 12, 1 if name.startswith("thin") else 3))
    explain("-i", name, *options, model=f"users_nets.py:{model}")
    record = f"out/{name.partition('.')[0]}.json"
    done = reproduce(record=record)
    assert done.exit_code == 0, done.output
    dtype = json.loads(Path(record).read_text())["maps"][0]["dtype"]
    assert dtype == ("float64" if model == "Doubled" else "float32")


@pytest.mark.slow
def test_several_files_of_one_channel_each(here):
    volume("c0.nii.gz", seed=0)
    volume("c1.nii.gz", seed=1)
    explain("-i", "c0.nii.gz", "-i", "c1.nii.gz", "--arg", "channels=2", "--layer", "down")
    assert reproduce(record="out/c0.json").exit_code == 0
    shutil.move("c0.nii.gz", "first.nii.gz")
    shutil.move("c1.nii.gz", "second.nii.gz")
    done = reproduce(record="out/c0.json")
    assert done.exit_code == 2
    assert "The image 'c0.nii.gz' does not exist. Give its place: --image PATH" in (
        " ".join(done.stderr.split())
    )
    moved = ["--image", "first.nii.gz", "--image", "second.nii.gz"]
    assert reproduce(*moved, record="out/c0.json").exit_code == 0
    done = reproduce(*moved[:2], record="out/c0.json")
    assert done.exit_code == 2
    assert "names 2 of --image" in done.stderr
    done = reproduce(*moved[2:], *moved[:2], record="out/c0.json")  # in the wrong order
    assert done.exit_code == 1
    assert done.stderr.count("Changed: image") == 2


# -------------------------------------------------------------------------------- what changed


def test_a_changed_image_is_named_before_and_the_difference_is_measured(here):
    volume("head.nii.gz", seed=0)
    explain("-i", "head.nii.gz", "--target", "channel 1", "--layer", "down")
    volume("head.nii.gz", seed=1)
    done = reproduce()
    assert done.exit_code == 1
    assert "Changed: image 'head.nii.gz' is not the recorded one (sha256" in done.stderr
    assert "changed   image 'head.nii.gz', sha256: " in done.stdout
    assert "changed   the model's input, sha256: " in done.stdout
    said = result(reproduce("--json"))
    (item,) = said["maps"]
    stored = np.asarray(nib.load("out/head_layercam.nii.gz").dataobj)
    shutil.copytree("out", "before")
    explain("-i", "head.nii.gz", "--target", "channel 1", "--layer", "down", "--overwrite")
    again = np.asarray(nib.load("out/head_layercam.nii.gz").dataobj)
    assert item["difference"] == np.abs(stored.astype(float) - again).max()
    assert item["relative"] == item["difference"] / np.abs(stored).max()
    expected = spearmanr(stored, again, axis=None).statistic
    assert item["correlation"] == pytest.approx(expected, abs=1e-9)
    share = f"({item['relative']:.3g} times the recorded map's maximum)"
    assert f"largest difference {item['difference']:.3g} {share}, rank correlation" in done.stdout
    assert reproduce().exit_code == 0
    assert reproduce(record="before/head.json").exit_code == 1


@pytest.mark.slow
def test_the_same_voxels_in_another_file_are_the_same_map(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    image = nib.load("head.nii.gz")
    image.header["descrip"] = b"written again"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), "head.nii.gz")
    done = reproduce()
    assert done.exit_code == 0
    assert "Changed: image" in done.stderr
    assert "changed   image 'head.nii.gz'" in done.stdout
    assert "the model's input" not in done.stdout


@pytest.mark.slow
def test_changed_weights_code_and_layer(here):
    volume("head.nii.gz")
    torch.save(balanced(UNet(3), 3).state_dict(), "w.pt")
    explain("-i", "head.nii.gz", "--target", "channel 1", "--layer", "down", "-w", "w.pt")
    torch.manual_seed(9)
    torch.save(balanced(UNet(3), 3).state_dict(), "other.pt")
    done = reproduce("--weights", "other.pt")
    assert done.exit_code == 1
    assert "Changed: weights 'other.pt'" in done.stderr
    assert "changed   weights 'w.pt', sha256: " in done.stdout
    assert "changed   the model's weights, sha256: " in done.stdout
    Path("layers_of_user.py").write_text("WIDTH = 5\n")
    Path("users_nets.py").write_text(NETS + "\n# a comment\n")
    done = reproduce()
    assert done.exit_code == 0, done.output
    assert "Changed: code of --model 'users_nets.py'" in done.stderr
    assert "changed   code 'users_nets.py', sha256: " in done.stdout
    assert "changed   imported code 'layers_of_user.py', sha256: " in done.stdout
    changed("out/head.json", lambda record: record["extra"]["recipe"]["options"].update(
        layer=["bottleneck"]))  # fmt: skip
    done = reproduce()
    assert done.exit_code == 1
    assert "changed   layercam: layer: down, now bottleneck" in done.stdout


@pytest.mark.slow
def test_random_weights_are_told(here):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24), np.uint8)).save("a.png")
    explain("-i", "a.png", "--layer", "features.3", model="users_nets:random")
    done = reproduce(record="out/a.json")
    assert done.exit_code == 1
    assert "changed   the model's weights, sha256: " in done.stdout


@pytest.mark.slow
def test_versions_device_and_threads(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")

    def edit(record):
        record["versions"].update(torch="1.0.0", nnunetv2="2.0", python="3.1")
        record["environment"].update(device="cuda:93", processor="abacus")

    changed("out/head.json", edit)
    done = reproduce()
    assert done.exit_code == 0, done.output
    assert "Note: this machine has no cuda:93, which the maps were made on." in done.stderr
    assert f"changed   torch: 1.0.0, now {torch.__version__}" in done.stdout
    assert "changed   nnunetv2: 2.0, now " in done.stdout
    assert "changed   device: cuda:93, now cpu" in done.stdout
    assert "changed   processor: abacus, now " in done.stdout
    done = reproduce("--device", "cuda:93")
    assert done.exit_code == 2
    assert "device='cuda:93' cannot be used" in done.stderr


@pytest.mark.slow
def test_the_number_of_threads_is_the_recorded_one(here, monkeypatch):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    before, seen = torch.get_num_threads(), []
    Path("users_nets.py").write_text(
        NETS.replace("def unet3(channels=1):", "def unet3(channels=1):\n"
                     "    torch.threads_seen.append(torch.get_num_threads())")
    )  # fmt: skip
    monkeypatch.setattr(torch, "threads_seen", seen, raising=False)
    for threads, expected in [(3, 3), (10**9, before), (-1, before), ("3", before)]:
        changed("out/head.json", lambda r, n=threads: r["environment"].update(threads=n))
        done = reproduce()
        assert done.exit_code == 0, done.output
        assert seen.pop() == expected
        assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_stored_map_that_was_changed_or_is_missing(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    stored = nib.load("out/head_layercam.nii.gz")
    values = np.asarray(stored.dataobj).copy()
    values[3, 3, 3] += 1
    nib.save(nib.Nifti1Image(values, stored.affine), "out/head_layercam.nii.gz")
    done = reproduce()
    assert done.exit_code == 1
    assert "its file head_layercam.nii.gz no longer holds the map of the record" in done.stdout
    volume("other.nii.gz", seed=1)
    done = reproduce("--image", "other.nii.gz")  # the map differs as well
    assert "largest difference" in done.stdout
    assert "no longer holds the map of the record" in done.stdout
    Path("out/head_layercam.nii.gz").write_bytes(b"damaged")
    done = reproduce()
    assert done.exit_code == 1
    assert "its file head_layercam.nii.gz cannot be read" in done.stdout
    Path("out/head_layercam.nii.gz").unlink()
    done = reproduce()
    assert done.exit_code == 0
    assert "its file is missing" in done.stdout


# ------------------------------------------------------------------- where things are, and go


@pytest.mark.parametrize("module", ["users_nets.py:unet3", "users_nets:unet3"])
@pytest.mark.slow
def test_a_folder_that_was_moved_as_a_whole(here, module, monkeypatch):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down", model=module)
    monkeypatch.chdir(here.parent)
    shutil.move(here, here.parent / "moved")
    sys.path[:] = [folder for folder in sys.path if folder != str(here)]
    done = reproduce(record=here.parent / "moved" / "out" / "head.json")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_files_that_moved_are_looked_for_in_a_folder(here):
    volume("head.nii.gz")
    torch.save(balanced(UNet(3), 3).state_dict(), "w.pt")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down", "-w", "w.pt")
    Path("elsewhere").mkdir()
    for name in ("head.nii.gz", "w.pt", "users_nets.py", "layers_of_user.py"):
        shutil.move(name, "elsewhere")
    done = reproduce()
    assert done.exit_code == 2
    done = reproduce("--search", "elsewhere")
    assert done.exit_code == 0, done.output
    volume("head.nii.gz", seed=5)  # another image of that name: the right one is taken
    done = reproduce("--search", "elsewhere")
    assert done.exit_code == 0
    assert "Changed: image" not in done.stderr


@pytest.mark.slow
def test_the_maps_are_saved_in_a_new_folder_only(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    before = files()
    for folder in ("out", "head.nii.gz"):
        done = reproduce("-o", folder)
        assert done.exit_code == 2
        assert "nothing is replaced" in done.stderr
    done = reproduce("-o", "again")
    assert done.exit_code == 0, done.output
    assert files() == before
    first, second = (nib.load(f"{folder}/head_layercam.nii.gz") for folder in ("out", "again"))
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    np.testing.assert_array_equal(first.affine, second.affine)
    assert reproduce(record="again/head.json").exit_code == 0


# --------------------------------------------------------------------- records of other people


def test_the_code_that_a_record_names_runs_with_consent_only(here):
    volume("head.nii.gz")
    Path("users_nets.py").write_text(NETS + "\nfrom pathlib import Path\nPath('ran').touch()\n")
    explain("-i", "head.nii.gz", "--target", "channel 1", "--layer", "down",
            "--prepare", "users_nets.py:halved", "--method", "users_nets:own")  # fmt: skip
    Path("ran").unlink()
    done = reproduce(trust=False)
    assert done.exit_code == 2
    assert (
        "'out/head.json' names code that would run on this machine: --model users_nets.py:unet3; "
        "--prepare users_nets.py:halved; --method users_nets:own. A record may be written by "
        "anybody: look at the code first, then add --trust"
    ) in done.stderr
    done = reproduce("--model", "users_nets.py:unet3", trust=False)  # not of what else it names
    assert done.exit_code == 2
    assert "--model" not in done.stderr.partition(". A record")[0]
    assert not Path("ran").exists()
    assert reproduce().exit_code == 0


@pytest.mark.slow
def test_a_model_of_the_users_own_is_consent_to_it_but_not_to_the_records_arguments(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    own = ["--model", "users_nets.py:unet3"]
    Path("theirs").mkdir()
    changed("out/head.json", lambda record: record["extra"]["recipe"]["files"].update(
        {"working folder": [{"path": "../theirs", "absolute": "/none"}]}))  # fmt: skip
    assert reproduce(*own, trust=False).exit_code == 0
    assert str(here / "theirs") not in sys.path
    changed("out/head.json", lambda record: record["extra"]["recipe"]["options"].update(
        arg=["repo=evil/$(rm)"]))  # fmt: skip
    done = reproduce(*own, trust=False)
    assert done.exit_code == 2
    assert "machine: --arg 'repo=evil/$(rm)'." in done.stderr
    assert reproduce(*own, "--arg", "channels=1", trust=False).exit_code == 0


@pytest.mark.slow
def test_a_saved_model_and_weights_of_objects_need_trust_again(here):
    volume("head.nii.gz")
    torch.save(balanced(UNet(3), 3), "whole.pt")
    arguments = ["-i", "head.nii.gz", "--target", "1", "--layer", "down", "--trust"]
    explain(*arguments, model="whole.pt")
    done = reproduce(trust=False)
    assert done.exit_code == 2
    assert "--model whole.pt" in done.stderr
    assert "Note: the record was made with --trust" in done.stderr
    assert reproduce().exit_code == 0
    torch.save({"state_dict": balanced(UNet(3), 3).state_dict(), "notes": Path("a")}, "w.pt")
    explain(*arguments, "-w", "w.pt")
    done = reproduce("--model", "users_nets.py:unet3", trust=False)
    assert done.exit_code == 2
    assert "holds more than weights" in done.stderr


class Touch:
    """An object whose unpickling makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_consent_to_code_is_none_to_pickles_that_the_record_did_not_need(here):
    volume("head.nii.gz")
    torch.save(balanced(UNet(3), 3).state_dict(), "w.pt")
    arguments = ["-i", "head.nii.gz", "--target", "1", "--layer", "down", "-w", "w.pt"]
    explain(*arguments)
    torch.save({"state_dict": balanced(UNet(3), 3).state_dict(), "notes": Touch()}, "w.pt")
    done = reproduce()
    assert done.exit_code == 2
    assert "holds more than weights" in done.stderr
    assert not Path("unpickled").exists()
    changed("out/head.json", lambda record: record["extra"]["recipe"].update(trust=True))
    done = reproduce(trust=False)
    assert "--model users_nets.py:unet3; --weights w.pt, which is unpickled. A rec" in done.stderr
    assert not Path("unpickled").exists()
    reproduce()
    assert Path("unpickled").exists()


def test_a_map_that_is_not_finite_now_cannot_be_made(here):
    volume("head.nii.gz")
    torch.save(balanced(UNet(3), 3).state_dict(), "w.pt")
    explain("-i", "head.nii.gz", "--target", "channel 1", "--layer", "down", "-w", "w.pt")
    state = torch.load("w.pt")
    torch.save({name: value * float("nan") for name, value in state.items()}, "w.pt")
    done = reproduce()
    assert done.exit_code == 2, done.output
    assert "Changed: weights 'w.pt'" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")


@pytest.mark.slow
def test_old_records_and_those_of_python_say_what_is_missing(here):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    shutil.copytree("out", "old")

    def as_before(record):
        del record["extra"]["recipe"], record["environment"]
        for entry in record["maps"]:
            del entry["sha256"], entry["dtype"]

    changed("old/head.json", as_before)
    done = reproduce(record="old/head.json")
    assert done.exit_code == 2
    assert (
        "'old/head.json' is too old: it was written by a version of medcam that did not record the "
        "hashes of its maps, the device and threads, the call that made them."
    ) in done.stderr
    assert run("report", "old").exit_code == 0
    assert run("report", "out").exit_code == 0
    changed("out/head.json", lambda record: record["extra"].pop("recipe"))
    done = reproduce()
    assert done.exit_code == 2
    assert "were made in Python" in done.stderr
    assert "explanation.compare('out/head.json')" in done.stderr


def edits():
    """Edits of a record, each with a part of the message; None for any."""
    recipe = lambda r: r["extra"]["recipe"]  # noqa: E731
    yield lambda r: r.update(maps=3), None
    yield lambda r: r.update(maps=[]), "too old"
    yield lambda r: r.update(extra=[]), None
    yield lambda r: r.update(environment=None), None
    yield lambda r: r["environment"].update(device="meta"), "its device is 'meta'"
    yield lambda r: r["environment"].update(device=["cpu"]), "its device is"
    yield lambda r: r["extra"].update(recipe=[1]), "damaged"
    yield lambda r: recipe(r).update(command="rm -rf \x1b[2J"), "rm -rf \\x1b[2J"
    yield lambda r: recipe(r).update(files={"image": ["a"]}), "damaged"
    yield lambda r: recipe(r)["files"].update(image=[{"path": "head.nii.gz"}]), None
    yield lambda r: recipe(r)["files"].update(image=[]), None
    yield lambda r: recipe(r)["options"].update(model=3), "its model is '3'"
    yield lambda r: recipe(r)["options"].update(layer=[["a"]]), "its layer is"
    yield lambda r: recipe(r)["options"].update(target="region x.nii 1"), "no file of its region"
    yield lambda r: recipe(r)["options"].update(overlap="0.5"), "its overlap is"
    yield (
        lambda r: recipe(r)["options"].update(overlap=0.999999, roi="8 8 8"),
        ("its overlap is 0.999999"),
    )
    yield lambda r: recipe(r)["options"].update(roi="-1"), "positive whole numbers"
    yield lambda r: recipe(r)["options"].update(future=1), "the option 'future'"
    yield lambda r: recipe(r)["options"].pop("model"), "names no model"
    yield (
        lambda r: recipe(r)["files"]["image"][0].update(path="/dev/zero", absolute="/dev/zero"),
        ("The image '/dev/zero' does not exist"),
    )
    yield (
        lambda r: recipe(r)["files"]["image"][0].update(
            path="//host/a.nii", absolute="\\\\host\\a.nii"
        ),
        "on another machine",
    )
    yield lambda r: recipe(r)["files"]["image"][0].update(path="a\0b", absolute="c" * 9000), None
    yield lambda r: r["maps"][0].update(target=3), "damaged"
    yield lambda r: r["maps"][0].update(shape=[10**9] * 3), "same"
    yield lambda r: r["maps"][0].update(shape="abc"), "same"


@pytest.mark.slow
@pytest.mark.parametrize(("edit", "message"), list(edits()))
def test_a_damaged_or_hostile_record_is_an_error_of_one_line(here, edit, message):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    changed("out/head.json", edit)
    done = reproduce("--json")
    assert "Traceback" not in done.output
    assert "\x1b" not in done.output
    if message == "same":  # the digest decides
        assert result(done)["changes"][0]["what"] == "layercam: shape"
        return
    assert done.exit_code in ((1, 2) if message is None else (2,)), done.output
    if done.exit_code == 2:
        assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert (message or "") in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../head.nii.gz", "/etc/hostname", "..", "a\\b", 3, None])
def test_only_files_beside_the_record_are_compared(here, name):
    volume("head.nii.gz")
    explain("-i", "head.nii.gz", "--target", "1", "--layer", "down")
    changed("out/head.json", lambda record: record["files"].update(map=[name]))
    done = reproduce("--json")
    assert done.exit_code == 1
    (item,) = result(done)["maps"]
    assert item["file"] is None
    assert item["difference"] is None
    assert item["problem"] == "is not beside the record"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"schema": "medcam.provenance/1"}', "[" * 9999]
)
def test_what_is_no_record_is_told(here, content):
    Path("a.json").write_text(content)
    done = reproduce(record="a.json")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: 'a.json' ")
    assert reproduce(record="none.json").exit_code == 2
