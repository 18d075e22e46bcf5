"""The record beside a map: complete, strict JSON, deterministic, with the right digests."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

import medcam
from medcam.errors import InputError, InputTypeError, SaveError
from medcam.files import Image, read_image, read_sidecar, stack_images, write_sidecar
from medcam.files.record.contents import provenance
from medcam.files.record.digests import sha256_of_array, sha256_of_model
from support.images import itk_image, numbers, write_nifti
from support.nets import Classifier

WHEN = datetime(2024, 5, 6, 7, 8, 9, 10, timezone(timedelta(hours=2)))


@pytest.fixture
def net():
    return Classifier().eval()


@pytest.fixture
def explanation(net):
    return medcam.explain(net, torch.rand(2, 1, 12, 12), layer="features.3", target=[0, 2])


def test_the_record_is_complete(tmp_path, net, explanation, affine):
    (tmp_path / "images").mkdir()
    path = write_nifti(tmp_path / "images" / "ct.nii.gz", numbers((5, 6, 7)), affine)
    record = provenance(
        model=net,
        inputs=read_image(path),
        maps=explanation,
        folder=tmp_path / "out",
        files={"map": tmp_path / "out" / "m.nii.gz", "mask": [tmp_path / "images" / "k.nii"]},
        windows={"roi_size": (96, np.int64(96)), "overlap": np.float32(0.5), "mode": "gaussian"},
        folds=(0, "all"),
        seed=7,
        time=WHEN,
        extra={"label": "PZ", "weights": torch.tensor([1.0, 2.0])},
    )
    assert record["schema"] == "medcam.provenance/1"
    assert record["created"] == "2024-05-06T05:08:09+00:00"
    assert (
        record["versions"].items()
        >= {
            "medcam": medcam.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        }.items()
    )
    assert record["environment"]["device"] == "cpu"
    assert record["environment"]["threads"] == torch.get_num_threads()
    assert record["environment"]["dtype"] == "float32"
    assert record["model"]["class"] == "support.nets.Classifier"
    assert record["model"]["state_sha256"] == sha256_of_model(net)
    assert record["inputs"] == [
        {
            "path": "../images/ct.nii.gz",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "of": "file",
        }
    ]
    np.testing.assert_array_equal(record["geometry"]["affine"], np.float32(affine))
    assert record["geometry"]["orientation"] == "LAS"
    assert record["windows"] == {"roi_size": [96, 96], "overlap": 0.5, "mode": "gaussian"}
    assert record["folds"] == [0, "all"]
    assert record["seed"] == 7
    assert record["files"] == {"map": ["m.nii.gz"], "mask": ["../images/k.nii"]}
    assert record["extra"] == {"label": "PZ", "weights": [1.0, 2.0]}


def test_each_map_has_its_own_entry(net, explanation):
    entries = provenance(model=net, inputs=torch.zeros(1), maps=explanation)["maps"]
    values = explanation.map.values
    assert [entry["sample"] for entry in entries] == [0, 1]
    assert [entry["target"]["class"] for entry in entries] == [0, 2]
    for entry, sample in zip(entries, values, strict=True):
        assert entry["range"] == [float(sample.min()), float(sample.max())]
        assert entry["shape"] == [12, 12]
        assert entry["dtype"] == "float32"
        assert entry["sha256"] == sha256_of_array(sample[0])
        assert (entry["method"], entry["layer"], entry["signed"]) == ("gcam", "features.3", False)
        assert entry["target"]["task"] == "classification"
        assert entry["target"]["description"] == str(explanation.target)


def test_the_range_of_a_signed_map_is_that_of_its_own_sample(net):
    maps = medcam.explain(net, torch.rand(2, 1, 12, 12), method="hirescam", layer="features.3")
    entries = provenance(model=net, inputs=torch.zeros(1), maps=maps)["maps"]
    lowest = [float(sample.min()) for sample in maps.map.values]
    assert [entry["range"][0] for entry in entries] == lowest
    assert len({0.0, *lowest}) == 3
    assert entries[0]["signed"] is True


def test_every_map_of_several_methods(net):
    several = medcam.explain(net, torch.rand(1, 1, 12, 12), method=["gcam", "saliency"])
    for maps in (several, list(several.maps.values())):
        entries = provenance(model=net, inputs=torch.zeros(1), maps=maps)["maps"]
        assert [entry["method"] for entry in entries] == ["gcam", "saliency"]
        assert entries[1]["layer"] is None


def test_only_the_time_of_creation_changes(net, explanation):
    first, second = (
        provenance(model=net, inputs=torch.ones(3), maps=explanation, time=time)
        for time in (WHEN, None)
    )
    assert first.pop("created") != second.pop("created")
    assert json.dumps(first) == json.dumps(second)


def test_the_paths_and_digests_of_inputs(tmp_path, net, explanation, affine):
    paths = [write_nifti(tmp_path / f"{n}.nii", numbers((3, 4, 5), seed=n), affine) for n in (1, 2)]
    sitk.WriteImage(itk_image(numbers((3, 4, 5)), affine), str(tmp_path / "c.mhd"))
    values = numbers((3, 4, 5), np.float32)

    def inputs(value):
        return provenance(model=net, inputs=value, maps=explanation, folder=tmp_path)["inputs"]

    stacked = inputs(stack_images(paths))
    assert [entry["path"] for entry in stacked] == ["1.nii", "2.nii"]
    assert stacked == inputs(paths) == inputs([str(path) for path in paths])
    assert stacked[0]["sha256"] != stacked[1]["sha256"]
    array = {"path": None, "sha256": sha256_of_array(values), "of": "array"}
    for value in (values, torch.from_numpy(values), Image(values), values[:, ::-1][:, ::-1]):
        assert inputs(value) == [array]
    # the digest of a header file would not cover the voxels
    detached = read_image(tmp_path / "c.mhd")
    (entry,) = inputs(detached)
    assert entry == {"path": "c.mhd", "sha256": sha256_of_array(detached.array), "of": "array"}


def test_the_affine_given_counts(net, explanation):
    record = provenance(model=net, inputs=torch.ones(1), maps=explanation, affine=np.eye(4))
    assert record["geometry"]["orientation"] == "RAS"
    with pytest.raises(InputError, match="affine"):
        provenance(model=net, inputs=torch.ones(1), maps=explanation, affine=np.zeros((4, 4)))


def test_a_path_needs_a_folder(tmp_path, net, explanation):
    with pytest.raises(InputError, match="give folder="):
        provenance(model=net, inputs=torch.ones(1), maps=explanation, files={"map": "m.nii"})
    with pytest.raises(InputError, match=r"none\.nii' cannot be read"):
        provenance(model=net, inputs=tmp_path / "none.nii", maps=explanation, folder=tmp_path)


@pytest.mark.parametrize("maps", [None, torch.ones(1, 1, 2, 2), ["gcam"]])
def test_values_that_are_not_maps(net, maps):
    with pytest.raises(InputTypeError, match="Explanation or AttentionMaps"):
        provenance(model=net, inputs=torch.ones(1), maps=maps)


@pytest.mark.parametrize("bad", [float("nan"), np.inf, torch.tensor([1.0, float("nan")])])
def test_values_that_json_cannot_hold(tmp_path, net, explanation, bad):
    with pytest.raises(InputError, match=r"extra\.a\[0\]\S* is (nan|inf): .*finite"):
        provenance(model=net, inputs=torch.ones(1), maps=explanation, extra={"a": [bad]})
    with pytest.raises(InputError, match="finite"):
        write_sidecar(tmp_path / "a.json", {"a": bad})
    with pytest.raises(InputTypeError, match=r"extra\.a is object"):
        provenance(model=net, inputs=torch.ones(1), maps=explanation, extra={"a": object()})
    assert list(tmp_path.iterdir()) == []


# --- the digest of a model


def test_every_weight_its_name_type_and_shape_count(net):
    before = sha256_of_model(net)
    digests = {before}
    for change in (
        lambda m: m.head.bias.data.add_(1e-7 + m.head.bias.data.abs()),
        lambda m: m.double(),
        lambda m: setattr(m, "other", m._modules.pop("head")),
        lambda m: setattr(m.head, "weight", nn.Parameter(m.head.weight.reshape(2, -1))),
        lambda m: m.register_buffer("mean", torch.tensor(0.0)),
    ):
        changed = copy.deepcopy(net)
        change(changed)
        digests.add(sha256_of_model(changed))
    assert len(digests) == 6
    assert sha256_of_model(copy.deepcopy(net)) == before


def test_wrappers_order_and_memory_layout_do_not_count(net):
    before = sha256_of_model(net)
    assert sha256_of_model(nn.DataParallel(net)) == before
    assert sha256_of_model(medcam.inject(copy.deepcopy(net))) == before
    assert sha256_of_model(copy.deepcopy(net).to(memory_format=torch.channels_last)) == before
    reordered = copy.deepcopy(net)
    reordered._modules = dict(reversed(reordered._modules.items()))
    assert list(reordered.state_dict()) != list(net.state_dict())
    assert sha256_of_model(reordered) == before


def test_the_digest_follows_from_its_definition():
    net = nn.Linear(2, 3).to(torch.bfloat16)
    digest = hashlib.sha256()
    for name, shape in (("bias", [3]), ("weight", [3, 2])):
        digest.update(json.dumps([name, "bfloat16", shape]).encode() + b"\n")
        digest.update(getattr(net, name).detach().view(torch.uint8).numpy().tobytes())
    assert sha256_of_model(net) == digest.hexdigest()


def test_the_size_of_chunks_does_not_count(monkeypatch, net):
    from medcam.files.record import digests

    before = sha256_of_model(net)
    monkeypatch.setattr(digests, "_CHUNK", 5)
    assert sha256_of_model(net) == before


def test_weights_of_every_type():
    net = nn.Module()
    kinds = [torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    for index, kind in enumerate(kinds):
        net.register_buffer(f"b{index}", torch.ones(3, 2).to(kind))
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    net.register_buffer("conjugate", torch.ones(2, dtype=torch.complex64).mul(1j).conj())
    before = sha256_of_model(net)
    net.conjugate = net.conjugate.resolve_conj()
    net.sparse = net.sparse.to_dense()
    assert sha256_of_model(net) == before
    net.b2[0, 0] = False
    assert sha256_of_model(net) != before


def test_a_model_without_values_is_refused():
    for net in (nn.LazyLinear(2), nn.Linear(2, 3, device="meta")):
        with pytest.raises(InputError, match="has no values yet"):
            sha256_of_model(net)


# --- the file


def test_the_file_is_strict_json_and_comes_back(tmp_path, net, explanation):
    record = provenance(model=net, inputs=torch.ones(1), maps=explanation, extra={"a": "ü"})
    path = write_sidecar(tmp_path / "new" / "case.json", record)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == record
    assert "ü" in text
    assert text.endswith("}\n")
    assert read_sidecar(path) == record


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    path = write_sidecar(tmp_path / "a.json", {"schema": "medcam.provenance/1", "seed": 1})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaveError, match="No space left"):
        write_sidecar(path, {"seed": 2})
    assert read_sidecar(path)["seed"] == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not a record"),
        ('{"schema": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not a record"),
        ("[1]", "its schema is None"),
        ('{"schema": "medcam.provenance/2"}', "its schema is 'medcam.provenance/2'"),
    ],
)
def test_files_that_are_not_a_record(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_sidecar(tmp_path / "a.json")


def test_another_ending(tmp_path):
    with pytest.raises(InputError, match=r"'\.json'"):
        write_sidecar(tmp_path / "a.txt", {})


def test_the_digest_is_the_same_in_another_process(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from support.nets import Classifier\n"
        "from medcam.files.record.digests import sha256_of_model\n"
        "net = Classifier(); net.load_state_dict(torch.load(sys.argv[2])); "
        "print(sha256_of_model(net))"
    )
    tests = Path(__file__).parents[2]
    out = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code, str(tests), str(tmp_path / "w.pt")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    ).stdout  # fmt: skip
    assert out.strip() == sha256_of_model(net)
