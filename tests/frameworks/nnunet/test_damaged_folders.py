"""A folder from elsewhere: its names run no code of others, and its damage is an error of ours."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch.nn import LeakyReLU

import medcam
from medcam.errors import InputError, MedcamError, NoMapError
from medcam.frameworks.nnunet import loading
from medcam.frameworks.nnunet.loading import load
from medcam.frameworks.nnunet.named_code import check_named_code
from support.nnunet_toy import make_folder

FULL = "3d_fullres"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("nnunet") / "sound", folds=(0,), channels=2)


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


def rewrite(folder, name, change):
    contents = json.loads((folder / name).read_text())
    change(contents)
    (folder / name).write_text(json.dumps(contents))


def architecture(plans):
    return plans["configurations"]["3d_fullres"]["architecture"]


PAYLOADS = [
    "torch.nn.functional.torch.os.system",
    "torch.nn.modules.module.torch.os.system",
    "dynamic_network_architectures.architectures.unet.torch.os.system",
    "torch.nn.functional.torch.hub.load",
    "torch.nn.functional.relu",  # a function of torch.nn, but no module
    "torch.nn.parameter.Parameter",
    "torch.nnx.LeakyReLU",
    "torch.optim.Adam",
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer",
    "os.system",
    "",
    "..",
    17,
    ["torch.nn.LeakyReLU"],
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
@pytest.mark.parametrize("place", ["nonlin", "conv_op", "network"])
def test_only_modules_of_pytorch_and_nnunet_are_located(folder, monkeypatch, payload, place):
    monkeypatch.setattr("os.system", lambda *a, **k: pytest.fail("a shell ran"))

    def change(plans):
        named = architecture(plans)
        if place == "network":
            named["network_class_name"] = payload
        else:
            named["arch_kwargs"][place] = payload
            named["arch_kwargs"]["nonlin_kwargs"] = {"command": "touch RAN"}

    rewrite(folder, "plans.json", change)
    with pytest.raises(InputError, match=r"not nnU-Net's own code.*--trust"):
        load(folder)


@pytest.mark.parametrize("payload", ["payload.Conv", "payload", "torch.os.system"])
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerBN"])
def test_names_that_the_plans_do_not_list_are_checked_too(folder, monkeypatch, payload, trainer):
    """nnU-Net's trainer for batch normalisation locates ``conv_op`` whatever the list says."""
    (folder / "payload.py").write_text("raise SystemExit('a file of the folder ran')\n")
    monkeypatch.syspath_prepend(folder)

    def change(plans):
        named = architecture(plans)
        named["_kw_requires_import"] = ["norm_op", "dropout_op", "nonlin"]
        named["arch_kwargs"]["conv_op"] = payload
        named["arch_kwargs"]["norm_op_kwargs"] = {"eps": 1e-5}

    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), "trainer_name": trainer}, path)
    rewrite(folder, "plans.json", change)
    with pytest.raises(InputError, match=r"not nnU-Net's own code.*--trust"):
        load(folder)
    assert "payload" not in sys.modules


@pytest.mark.parametrize(
    ("place", "payload"),
    [
        ("preprocessor_name", "Pool"),
        ("preprocessor_name", "ConfigurationManager"),
        ("normalization_schemes", ["np"]),
        ("normalization_schemes", ["ABC"]),
        ("resampling_fn_data", "recursive_find_python_class"),
        ("resampling_fn_probabilities", "join"),
        ("resampling_fn_seg", "np"),
    ],
)
def test_the_other_names_of_the_plans_are_of_their_kind(folder, place, payload):
    rewrite(
        folder,
        "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"].update({place: payload}),
    )
    with pytest.raises(InputError):
        load(folder)


@pytest.mark.parametrize(
    ("place", "payload"), [("image_reader_writer", "sitk"), ("label_manager", "lru_cache")]
)
def test_readers_and_label_managers_are_nnunets(folder, place, payload):
    rewrite(folder, "plans.json", lambda plans: plans.update({place: payload}))
    with pytest.raises(InputError):
        load(folder)


@pytest.mark.parametrize("found", [PlainConvUNet, LeakyReLU.__init__, Path])
def test_a_class_that_was_moved_is_taken_only_if_it_is_a_network(folder, monkeypatch, found):
    from nnunetv2.utilities import find_class_by_name as finder

    def move(plans):
        architecture(plans)["network_class_name"] = (
            "dynamic_network_architectures.old.PlainConvUNet"
        )

    find = finder.recursive_find_python_class
    monkeypatch.setattr(
        finder,
        "recursive_find_python_class",
        lambda folder, *names: found if "architectures" in folder else find(folder, *names),
    )
    rewrite(folder, "plans.json", move)
    plans, configuration = loading._managers(json.loads((folder / "plans.json").read_text()), FULL)
    if found is PlainConvUNet:
        check_named_code(plans, configuration)
    else:
        with pytest.raises(InputError, match="own code"):
            check_named_code(plans, configuration)


DAMAGE = {
    "no configurations": ("plans.json", lambda c: c.pop("configurations")),
    "no reader": ("plans.json", lambda c: c.pop("image_reader_writer")),
    "transposition": ("plans.json", lambda c: c.update(transpose_forward=[0, 0, 9])),
    "window of text": (
        "plans.json",
        lambda c: c["configurations"]["3d_fullres"].update(patch_size="abc"),
    ),
    "negative spacing": (
        "plans.json",
        lambda c: c["configurations"]["3d_fullres"].update(spacing=[-1, 1, 1]),
    ),
    "inherits from itself": (
        "plans.json",
        lambda c: c["configurations"]["3d_fullres"].update(inherits_from="3d_fullres"),
    ),
    "features": (
        "plans.json",
        lambda c: architecture(c)["arch_kwargs"].update(features_per_stage=[6, 8, 10**9]),
    ),
    "stages": ("plans.json", lambda c: architecture(c)["arch_kwargs"].update(n_stages=10**9)),
    "blocks": (
        "plans.json",
        lambda c: architecture(c)["arch_kwargs"].update(n_conv_per_stage=[2, 2, 10**9]),
    ),
    "no labels": ("dataset.json", lambda c: c.pop("labels")),
    "labels of text": ("dataset.json", lambda c: c.update(labels={"background": "x"})),
    "more labels": ("dataset.json", lambda c: c["labels"].update(more=3)),
    "no channels": ("dataset.json", lambda c: c.pop("channel_names")),
    "channel without a number": ("dataset.json", lambda c: c.update(channel_names={"a": "T2"})),
    "no ending": ("dataset.json", lambda c: c.pop("file_ending")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_json_is_an_error_of_ours(folder, damage):
    rewrite(folder, *DAMAGE[damage])
    with pytest.raises(MedcamError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


CHECKPOINTS = {
    "nothing": {},
    "arguments of text": {"init_args": "3d_fullres"},
    "unknown trainer": {"trainer_name": "os"},
    "trainer is a number": {"trainer_name": 3},
    "weights are a list": {"network_weights": [torch.ones(1)]},
    "no weights": {"network_weights": {}},
    "weights of text": {"network_weights": {"a": "b"}},
    "other weights": {"network_weights": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_damaged_checkpoints_are_errors_of_ours(folder, damage):
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    torch.save({**state, **CHECKPOINTS[damage]} if damage != "nothing" else {}, path)
    with pytest.raises(InputError):
        load(folder)


@pytest.mark.parametrize("name", ["", "../x.pth", "/etc/passwd", "*.pth", "a\0b"])
def test_a_checkpoint_is_the_name_of_a_file(folder, name):
    with pytest.raises(InputError):
        load(folder, checkpoint=name)


def test_logits_that_are_not_finite_are_an_error_not_an_absent_label(folder, case):
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    weights = state["network_weights"]
    state["network_weights"] = {name: value * float("nan") for name, value in weights.items()}
    torch.save(state, path)
    with pytest.raises(NoMapError, match=r"logits of 'case' are NaN or infinite in \d+ of"):
        medcam.nnunet.explain(folder, case, "PZ")


def test_a_grid_beyond_the_memory_is_refused_before_it_is_made(folder, case):
    rewrite(
        folder,
        "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"].update(spacing=[1e-5, 1e-5, 1e-5]),
    )
    with pytest.raises(InputError, match=r"needs .* GiB of memory"):
        medcam.nnunet.explain(folder, case, "PZ")


@pytest.mark.parametrize("name", ["a" * 5000 + ".nii.gz", "a\0b.nii.gz"])
def test_impossible_paths_of_a_case(folder, name):
    with pytest.raises(InputError, match="There is no file"):
        medcam.nnunet.explain(folder, name, "PZ")
