"""``medcam report``: a folder of results becomes pages and an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from medcam.errors import InputError
from medcam.explanation.case.reading import read_case
from medcam.files import read_image, save_map, save_nifti, save_png, write_sidecar
from medcam.files.record.contents import provenance
from support.scenes import RAS, SHAPE, volume
from support.viewing import Viewer

Visit = Callable[..., Viewer]


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def _explained(space: tuple[int, ...]) -> tuple[torch.nn.Module, torch.Tensor, Any]:
    three = len(space) == 3
    conv = torch.nn.Conv3d if three else torch.nn.Conv2d
    pool = torch.nn.AdaptiveAvgPool3d if three else torch.nn.AdaptiveAvgPool2d
    net = torch.nn.Sequential(
        conv(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        pool(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    )
    x = torch.from_numpy(volume(0, space))[None, None]
    return net, x, medcam.explain(net, x, method=["gcam", "gbp"], target=1)


def save_volume_case(folder: Path, name: str) -> Any:
    """A case as a command saves it: image, mask, maps, and at last the record."""
    folder.mkdir(parents=True, exist_ok=True)
    net, _, explanation = _explained(SHAPE)
    image = read_image(save_nifti(folder / f"{name}_image.nii.gz", volume(), RAS))
    mask = save_nifti(folder / f"{name}_mask.nii.gz", (volume(3) > 0.5) * 1.0, RAS)
    paths = [
        save_map(folder / f"{name}_{one.method}.nii.gz", one.values[0, 0], image)
        for one in explanation.maps.values()
    ]
    record = provenance(
        model=net,
        inputs=image,
        maps=explanation,
        folder=folder,
        files={"map": paths, "mask": mask},
        extra={"scores": [{"method": "Grad-CAM", "dice": 0.25}], "modality": "MR"},
    )
    write_sidecar(folder / f"{name}.json", record)
    return explanation


def test_a_folder_becomes_pages_and_an_index(visit: Visit, tmp_path: Path) -> None:
    explanation = save_volume_case(tmp_path / "site 1", "case_1")
    save_volume_case(tmp_path, "index")
    assert (read_case(tmp_path / "index.json").mask == (volume(3) > 0.5)).all()
    (tmp_path / "dataset.json").write_text('{"name": "not ours"}')
    (tmp_path / "broken.json").write_text('{"schema": ')
    code, out, err = _run(tmp_path)
    assert code == 0
    assert out.startswith("2 reports, 1 case without one: ")
    assert "broken: " in err
    assert "dataset" not in out + err

    viewer = visit(tmp_path / "index.html")
    assert viewer.page.locator(".error").count() == 1
    assert "is not a record of medcam" in viewer.text(".error")
    viewer.page.locator("th a").last.click()
    viewer.ready()
    assert viewer.text("h1") == "case_1"
    at = viewer.index()
    expected = explanation.maps["gcam", "1"].values[0, 0].numpy()
    assert viewer.number("#map-value") == pytest.approx(float(expected[at]), rel=1e-3)
    assert viewer.number("#image-value") == pytest.approx(float(volume()[at]), abs=1e-3)
    assert viewer.page.locator("#method option").all_inner_texts() == [
        "Grad-CAM",
        "Guided Backpropagation",
    ]
    assert "0.250" in viewer.text("tbody")
    viewer.page.click("#provenance summary")
    assert "state_sha256" in viewer.text("#provenance")
    assert viewer.page.locator("#show-mask").count() == 1


def test_pages_can_go_elsewhere(tmp_path: Path) -> None:
    save_volume_case(tmp_path / "in" / "deep", "case_1")
    code, out, _ = _run(tmp_path / "in", "-o", tmp_path / "out")
    assert (code, out.split(":")[0]) == (0, "1 report")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.html")) == [
        "case_1.html",
        "index.html",
    ]
    assert not list((tmp_path / "in").rglob("*.html"))


@pytest.mark.parametrize("ending", [".npy", ".tif"])
def test_a_picture_of_colours_is_read(tmp_path: Path, ending: str) -> None:
    space = (12, 17)
    photo = np.random.default_rng(0).integers(0, 256, (*space, 3), dtype=np.uint8)
    path = save_png(tmp_path / "photo.png", photo)
    net, x, explanation = _explained(space)
    image = read_image(path)
    maps = [
        save_map(tmp_path / f"{n}{ending}", one.values[0, 0], image)
        for n, one in enumerate(explanation.maps.values())
    ]
    record = provenance(
        model=net, inputs=x, maps=explanation, folder=tmp_path, files={"map": maps, "image": path}
    )
    case = read_case(write_sidecar(tmp_path / "a.json", record))
    assert (case.image == photo).all()
    values = explanation.maps["gbp", None].values[0, 0].numpy()
    assert (case.maps[1].values == values).all()
    assert [one.target for one in case.maps] == ["class 1", "class 1"]
    assert [one.layer for one in case.maps] == ["1", None]
    assert [one.signed for one in case.maps] == [False, True]


def _damage_map(folder: Path) -> None:
    (folder / "case_gcam.nii.gz").write_bytes(b"no image")


def _remove_image(folder: Path) -> None:
    (folder / "case_image.nii.gz").unlink()


def _other_grid(folder: Path) -> None:
    save_nifti(folder / "case_image.nii.gz", volume()[:-1], RAS)


def _change(folder: Path, **parts: Any) -> None:
    path = folder / "case.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_map, "case_gcam.nii.gz"),
        (_remove_image, "does not exist"),
        (_other_grid, "bring it to the image's grid"),
        (lambda folder: _change(folder, files={"map": ["a.npy"]}), "2 maps but names 1 files"),
        (lambda folder: _change(folder, files={}, maps=[], inputs=[]), "names no image"),
        (lambda folder: _change(folder, maps=[{}, {}]), "is damaged"),
        (lambda folder: _change(folder, files=[]), "is damaged"),
        (lambda folder: _change(folder, schema="medcam.provenance/99"), "this version of medcam"),
    ],
)
def test_a_damaged_case_is_a_line_with_its_error(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save_volume_case(tmp_path, "case")
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        read_case(tmp_path / "case.json")
    save_volume_case(tmp_path, "good")
    code, out, err = _run(tmp_path)
    assert code == 0
    assert out.startswith("1 report, 1 case without one: ")
    assert err.startswith("case: ")
    index = (tmp_path / "index.html").read_text()
    assert index.count('class="error"') == 1
    assert 'href="good.html"' in index


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "no case in"), (tmp_path / "x", "does not exist")):
        code, _, err = _run(folder)
        assert code == 2
        assert message in err
    (tmp_path / "only.json").write_text("{")
    code, out, _ = _run(tmp_path)
    assert (code, out.startswith("0 reports, 1 case without one")) == (1, True)
