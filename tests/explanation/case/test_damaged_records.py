"""One odd record is a line of the index; it ends no report."""

from __future__ import annotations

import json
import random

import pytest
import torch

import medcam
from medcam.explanation.case.reading import report_folder
from medcam.views.report import index
from support.nets import Classifier


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of three cases."""
    folder = tmp_path_factory.mktemp("cases")
    net, row = Classifier().eval(), {"Method": "Grad-CAM", "WIoA": 0.5}
    for name in "abc":
        explanation = medcam.explain(net, torch.rand(1, 1, 16, 16))
        explanation.save(folder / name, model=net, scores=[row], montage=False, report=False)
    return folder


def reported(folder, record, output):
    """Replace the record of the case ``b``; return the entries of the index."""
    kept = (folder / "b.json").read_text()
    try:
        (folder / "b.json").write_text(record if isinstance(record, str) else json.dumps(record))
        return {entry.name: entry for entry in report_folder(folder, output)}
    finally:
        (folder / "b.json").write_text(kept)


ODD = {
    "scores that are no rows": lambda r: r["extra"].update(scores=[1]),
    "scores that are text": lambda r: r["extra"].update(scores="abc"),
    "a score that is a list": lambda r: r["extra"].update(scores=[{"a": [1]}]),
    "a name that is a number": lambda r: r["extra"].update(name=3),
    "a name of 9,000 letters": lambda r: r["extra"].update(name="a" * 9000),
    "a modality that is a number": lambda r: r["extra"].update(modality=7),
    "a rate that is text": lambda r: r["extra"].update(sampling_rate="x"),
    "a file's name of 5,000 letters": lambda r: r["files"].update(map=["a" * 5000]),
    "a file's name with a zero byte": lambda r: r["files"].update(image=["a\0b.tif"]),
    "a file that is a folder": lambda r: r["files"].update(map=["."]),
    "no maps": lambda r: r.update(maps=None),
    "maps that are numbers": lambda r: r.update(maps=[1]),
    "a shape that is text": lambda r: r["maps"][0].update(shape="ab"),
    "a target that is missing": lambda r: r["maps"][0].pop("target"),
    "files that are a list": lambda r: r.update(files=[]),
    "extra that is a list": lambda r: r.update(extra=[1]),
    "inputs that are a number": lambda r: r.update(inputs=4),
    "another schema": lambda r: r.update(schema="medcam.provenance/99"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_is_a_line_of_the_index(sound, tmp_path, odd):
    record = json.loads((sound / "b.json").read_text())
    ODD[odd](record)
    entries = reported(sound, record, tmp_path)
    assert len(entries) == 3
    assert entries["a"].error is None
    assert entries["c"].error is None
    assert (tmp_path / "index.html").exists()
    others = [entry for name, entry in entries.items() if name not in "ac"]
    assert len(others) == 1
    assert len(others[0].error or "") < 1500


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000, '{"schema": NaN}'])
def test_text_that_is_no_record(sound, tmp_path, text):
    entries = reported(sound, text, tmp_path)
    assert {"a", "c"} <= set(entries)
    assert (tmp_path / "index.html").exists()


def mutated(record, rng):
    """Return a record with one value replaced, at a random place."""
    places = []

    def walk(value):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inside:
            places.append((value, key))
            if isinstance(part, dict | list):
                walk(part)

    walk(record)
    holder, key = rng.choice(places)
    odd = [None, -1, 1e308, "", "../..", "x" * 400, [], {}, [1], {"a": 1}, True, "a\nb", "\ud800"]
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(odd)
    return record


@pytest.mark.slow
def test_200_mutated_records(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SIDE", 16)
    rng = random.Random(0)  # noqa: S311  # not for secrets
    text = (sound / "b.json").read_text()
    for _ in range(200):
        entries = reported(sound, mutated(json.loads(text), rng), tmp_path)
        assert {"a", "c"} <= set(entries)
