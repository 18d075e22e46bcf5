"""The results of one image never replace those of another."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcam.cli import app
from medcam.errors import InputError
from medcam.explanation.case.claims import claimed_prefix, is_of_other_input


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a network and the images of two patients, of one name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    code = "from support.nets import Classifier\ndef build(): return Classifier()\n"
    (tmp_path / "names_net.py").write_text(code)
    for number, patient in enumerate(("pA", "pB")):
        picture(tmp_path / patient / "cxr.png", number)
    yield tmp_path
    sys.modules.pop("names_net", None)


def picture(path, seed):
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (16, 20), np.uint8)
    Image.fromarray(values).save(path)
    return path


def explain(image, *options):
    arguments = ["explain", "-m", "names_net:build", "-i", str(image), "-o", "out", "--no-report"]
    return CliRunner().invoke(app, [*arguments, *options])


def records():
    return sorted(path.stem for path in Path("out").glob("*.json"))


def test_a_second_patient_gets_the_name_of_its_folder(here):
    for _ in range(2):  # also when the commands are repeated
        for patient in ("pA", "pB"):
            assert explain(f"{patient}/cxr.png").exit_code == 0
        assert records() == ["cxr", "pB_cxr"]
    told = explain("pB/cxr.png", "--json")
    assert "Note: 'out/cxr' is of another image: this one is saved as pB_cxr." in told.stderr
    assert json.loads(told.stdout)["name"] == "pB_cxr"
    assert json.loads(told.stdout)["image"] == ["pB/cxr.png"]
    inputs = json.loads(Path("out/pB_cxr.json").read_text())["inputs"]
    assert inputs[-1]["path"] == "../pB/cxr.png"
    assert not is_of_other_input(Path("out/cxr"), [Path("pA/cxr.png")])


def test_images_that_differ_in_their_ending_only(here):
    Image.open("pB/cxr.png").save("pA/cxr.tif")
    assert explain("pA/cxr.png").exit_code == 0
    assert explain("pA/cxr.tif").exit_code == 0
    assert records() == ["cxr", "pA_cxr"]


def test_a_name_of_one_s_own(here):
    assert explain("pA/cxr.png", "--name", "first").exit_code == 0
    refused = explain("pB/cxr.png", "--name", "first")
    assert refused.exit_code == 2
    assert "holds the maps of another image: give another name (--name)" in refused.stderr
    assert explain("pB/cxr.png", "--name", "first", "--overwrite").exit_code == 0
    assert records() == ["first"]
    assert not is_of_other_input(Path("out/first"), [Path("pB/cxr.png")])
    assert explain("pB/cxr.png", "--name", "../../else").exit_code == 0
    assert len(records()) == 2
    assert sorted(path.name for path in here.iterdir()) == ["names_net.py", "out", "pA", "pB"]


def test_overwrite_replaces_the_results_of_another_image(here):
    explain("pA/cxr.png")
    assert explain("pB/cxr.png", "--overwrite").exit_code == 0
    assert records() == ["cxr"]
    assert not is_of_other_input(Path("out/cxr"), [Path("pB/cxr.png")])


def test_an_image_that_changed_is_the_same_one(here):
    explain("pA/cxr.png")
    picture(here / "pA" / "cxr.png", 7)
    assert explain("pA/cxr.png").exit_code == 0
    assert records() == ["cxr"]


def test_a_json_file_of_somebody_else_is_not_replaced(here):
    Path("out").mkdir()
    for content in ("not json", "{}", '{"schema": "medcam.provenance/1", "inputs": 3}'):
        Path("out/cxr.json").write_text(content)
        assert explain("pA/cxr.png").exit_code == 0
        assert Path("out/cxr.json").read_text() == content
    assert records() == ["cxr", "pA_cxr"]


def test_where_every_name_is_taken_nothing_is_replaced(here):
    prefixes = []
    for number in range(4):
        with claimed_prefix(Path("out"), [Path("pA/cxr.png")]) as prefix:
            prefixes.append(prefix.name)
            prefix.parent.mkdir(exist_ok=True)
            prefix.with_name(f"{prefix.name}.json").write_text(str(number))
    assert prefixes == ["cxr", "pA_cxr", f"{here.name}_pA_cxr", f"{here.name}_pA_cxr_png"]
    with (
        pytest.raises(InputError, match="another image"),
        claimed_prefix(Path("out"), [Path("pA/cxr.png")]),
    ):
        pass


def test_a_map_of_another_method_leaves_no_orphan(here):
    explain("pA/cxr.png", "--method", "gcam")
    Path("out/cxr_gcam_notes.txt").write_text("mine")
    explain("pA/cxr.png", "--method", "hirescam")
    names = {path.name for path in Path("out").iterdir()}
    assert {"cxr_hirescam.tif", "cxr_hirescam.png", "cxr_gcam_notes.txt"} <= names
    assert not {"cxr_gcam.tif", "cxr_gcam.png"} & names


def test_the_maps_of_a_case_with_a_longer_name_are_no_orphans(here):
    explain("pA/cxr.png", "--name", "a_gcam")  # its map is a_gcam_gcam.tif
    explain("pB/cxr.png", "--name", "a")
    record = json.loads(Path("out/a.json").read_text())
    record["files"]["map"].append("a_gcam_gcam.tif")
    Path("out/a.json").write_text(json.dumps(record))
    explain("pB/cxr.png", "--name", "a", "--method", "hirescam")
    assert Path("out/a_gcam_gcam.tif").exists()


def test_an_output_that_is_a_file_is_told_before_the_run(here):
    Path("out").write_text("taken")
    refused = explain("pA/cxr.png")
    assert refused.exit_code == 1
    assert "'out' is a file. Choose another folder." in refused.stderr


def claim_and_write(barrier, folder):
    """Explain one of several images of a name at the same time; called in processes."""
    barrier.wait()
    with claimed_prefix(Path("out"), [folder / "cxr.png"]) as prefix:
        prefix.parent.mkdir(exist_ok=True)
        prefix.with_name(f"{prefix.name}.json").write_text(str(folder))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
def test_processes_at_the_same_time_take_different_names(here):
    folders = [here / f"case{number}" for number in range(4)]
    for number, folder in enumerate(folders):
        picture(folder / "cxr.png", number)
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        shutil.rmtree("out", ignore_errors=True)
        barrier = context.Barrier(4)
        running = [
            context.Process(target=claim_and_write, args=(barrier, folder)) for folder in folders
        ]
        for process in running:
            process.start()
        for process in running:
            process.join()
        assert {Path(f"out/{name}.json").read_text() for name in records()} == set(
            map(str, folders)
        )
