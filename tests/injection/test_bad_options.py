"""Options that do not fit are refused as early as possible, with what is allowed."""

from __future__ import annotations

import errno
import os

import pytest
import torch

import medcam
from medcam.errors import (
    InputError,
    InputTypeError,
    MaskError,
    MedcamWarning,
    SaveError,
    UnknownNameError,
)
from support.nets import Classifier, UNet, image

WHOLE = medcam.targets.class_score(0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "featurs"}, ["featurs", "features", "get_layers"]),
        ({"layer": ["features", "hed"]}, ["hed", "head"]),
        ({"layer": []}, ["no layer", "auto"]),
        ({"backend": "gcamm"}, ["gcamm", "gcam"]),
        ({"backend": ["gcam", "gbp"]}, ["one backend", "explain"]),
        ({"evaluate": True}, ["output_dir"]),
        ({"save_maps": True}, ["save_maps", "output_dir"]),
        ({"save_pickle": True}, ["save_pickle", "output_dir"]),
        ({"save_scores": True}, ["save_scores", "output_dir"]),
        ({"return_score": True}, ["evaluate=True", "mask"]),
        ({"label": 1, "target": 1}, ["label", "target"]),
    ],
)
def test_at_inject(options, words):
    with pytest.raises(InputError) as caught:
        medcam.inject(Classifier(), **options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "wiaa"}, ["wiaa", "wioa"]),
        ({"threshold": "otso"}, ["otso", "otsu"]),
        ({"threshold": 1.5}, ["1.5"]),
    ],
)
def test_evaluation_options_at_inject(options, words, tmp_path):
    with pytest.raises(InputError) as caught:
        medcam.inject(Classifier(), tmp_path, evaluate=True, **options)
    assert all(word in str(caught.value) for word in words)


def test_no_model():
    with pytest.raises(InputTypeError, match=r"torch\.nn\.Module"):
        medcam.inject("resnet50")


def test_unknown_names_are_value_errors():
    with pytest.raises(UnknownNameError):
        medcam.inject(Classifier(), backend="x")
    assert issubclass(UnknownNameError, ValueError)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, ["mask", "model(input, mask)"]),
        (torch.ones(3, 1, 12, 12), ["(3, 1, 12, 12)", "[2, 1, *space]"]),
        (torch.ones(2, 4, 12, 12), ["(2, 4, 12, 12)"]),
        (torch.ones(2, 1, 24, 24), ["(24, 24)", "(12, 12)"]),
        (torch.full((2, 1, 12, 12), 0.5), ["0.5"]),
        (torch.full((2, 1, 12, 12), 3), ["3"]),
        ([torch.ones(12, 12)], ["(1, 12, 12)", "[2, 1, *space]"]),
    ],
)
def test_masks(mask, words, tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, evaluate=True, label=0)
    with pytest.raises((MaskError, InputError)) as caught:
        model(image(), mask=mask)
    assert all(word in str(caught.value) for word in words)
    if mask is not None:  # the finished map is not lost
        assert model.get_attention_map().any()


@pytest.mark.parametrize("masks", [[torch.ones(12, 12), torch.ones(1, 12, 12)], ["a.png"] * 2])
def test_masks_of_samples_that_cannot_be_one_tensor(masks, tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, evaluate=True, label=0)
    with pytest.raises(MaskError, match="cannot be stacked"):
        model(image(), mask=masks)


def test_a_label_out_of_range():
    model = medcam.inject(Classifier(classes=3).eval())
    with pytest.raises(InputError, match="0 to 2"):
        model(image(), 3)


def test_a_wrong_number_of_labels():
    model = medcam.inject(Classifier().eval())
    with pytest.raises(InputError, match="batch of 2"):
        model(image(), [0, 1, 2])


def test_a_label_given_twice():
    model = medcam.inject(Classifier().eval())
    with pytest.raises(InputError, match="twice"):
        model(image(), 1, label=1)


def test_several_layers_cannot_be_returned():
    for layer in ("full", ["features", "features.0"], {"features", "features.0"}):
        with pytest.raises(InputError, match="get_attention_map"):
            medcam.inject(Classifier(), layer=layer, return_attention=True)


def test_saving_without_a_folder():
    model = medcam.inject(Classifier().eval())
    model(image())
    with pytest.raises(InputError, match="output_dir"):
        model.save_attention_map(model.get_attention_map()[0, 0])


def test_dump_without_scores(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, save_scores=True)
    with pytest.raises(InputError, match="mask"):
        model.dump()


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(SaveError, match="taken"):
        medcam.inject(Classifier(), tmp_path / "taken", save_maps=True)


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_full_disk_leaves_no_half_file_and_keeps_the_map(tmp_path, monkeypatch, on_error):
    model = medcam.inject(
        UNet(3).eval(), tmp_path, save_maps=True, reference=torch.eye(4), label=WHOLE,
        on_error=on_error,
    )  # fmt: skip

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    told = pytest.warns(MedcamWarning, match="its map was not saved: .*No space")
    with pytest.raises(SaveError, match="space") if on_error == "raise" else told, torch.no_grad():
        model(image(3))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert model.get_attention_map().any()
