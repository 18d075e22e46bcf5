"""The user's model is made by their own code, or the error says in a line what is wrong."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from medcam.cli.model import keyword_arguments, load_model
from medcam.errors import InputError, InputTypeError, MedcamError, UnknownNameError


@pytest.mark.parametrize(
    "spec",
    [
        "nets_of_user:Net",
        "nets_of_user:Nets.net",
        "nets_of_user:factory",
        "nets_of_user:made",
        "nets_of_user.py:Net",
        "sub/other.py:Net",
    ],
)
def test_every_way_to_name_a_model(folder, spec):
    (folder / "sub").mkdir()
    (folder / "sub" / "other.py").write_text("from beside import Net\n")
    (folder / "sub" / "beside.py").write_text((folder / "nets_of_user.py").read_text())
    model = load_model(spec)
    assert type(model).__name__ == "Net"
    assert not model.training
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 3)


def test_a_file_named_like_an_imported_module(folder):
    (folder / "json.py").write_text((folder / "nets_of_user.py").read_text())
    before = sys.modules["json"]
    assert type(load_model("json.py:Net")).__name__ == "Net"
    assert sys.modules["json"] is before


def test_a_file_is_run_once(folder):
    (folder / "counting.py").write_text(
        "from pathlib import Path\nfrom torch import nn\n"
        "with Path('runs').open('a') as runs: runs.write('.')\nNet = nn.Identity\n"
    )
    for _ in range(2):
        load_model("counting.py:Net")
    assert (folder / "runs").read_text() == "."


def test_arguments_reach_the_factory(folder):
    args = ["classes=5", "norm=batch"]
    for spec in ("nets_of_user:Net", "nets_of_user:factory"):
        model = load_model(spec, args=args)
        assert model.head.out_features == 5
        assert model.norm == "batch"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("[1, [2]]", [1, [2]]),
        ('{"a": 1}', {"a": 1}), ('"3"', "3"), ("batch", "batch"), ("a=b", "a=b"), ("", ""),
    ],
)  # fmt: skip
def test_arguments_are_json_or_text(text, value):
    assert keyword_arguments([f"name={text}"]) == {"name": value}


@pytest.mark.parametrize("args", [["a"], ["=1"], ["a-b=1"], ["a=[1,"], ['a={"b"'], ["a=1", "a=2"]])
def test_what_is_no_argument(args):
    with pytest.raises(InputError, match="--arg"):
        keyword_arguments(args)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("nets_of_user", InputError, "is not MODULE:FACTORY"),
        ("nets_of_user:", InputError, "is not MODULE:FACTORY"),
        (":Net", InputError, "is not MODULE:FACTORY"),
        ("nets_of_user:net", UnknownNameError, r"'net' does not exist. Did you mean .*'Net'"),
        ("nets_of_user:Nets.nat", UnknownNameError, "'nat' does not exist"),
        ("no_such_module:Net", InputError, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("nowhere.py:Net", InputError, r"'nowhere\.py' of --model does not exist"),
        ("broken.py:Net", InputError, r"'broken\.py' cannot be run: SyntaxError"),
        ("broken:Net", InputError, "'broken' cannot be imported: SyntaxError"),
        ("nets_of_user:no_model", InputTypeError, "gives dict, .*a state_dict goes to --weights"),
        ("nets_of_user:number", InputTypeError, "is int"),
        ("nets_of_user:failing", InputError, "failed: ZeroDivisionError: their own fault"),
    ],
)
def test_what_leads_to_no_model(folder, spec, kind, message):
    (folder / "broken.py").write_text("def\n")
    with pytest.raises(kind, match=message) as error:
        load_model(spec)
    assert isinstance(error.value, MedcamError)
    assert "broken" not in sys.modules


def test_arguments_that_the_factory_does_not_take(folder):
    with pytest.raises(InputError, match=r"TypeError: .*'depth'.*--arg name=value"):
        load_model("nets_of_user:Net", args=["depth=3"])
    with pytest.raises(InputError, match="is a model already"):
        load_model("nets_of_user:made", args=["classes=3"])


def test_a_whole_saved_model_needs_trust(folder):
    torch.save(load_model("nets_of_user:Net", args=["classes=7"]), folder / "whole.pt")
    with pytest.raises(InputError, match=r"more than weights \(nets_of_user\.Net\).*add --trust"):
        load_model("whole.pt")
    model = load_model("whole.pt", trust=True)
    assert model.head.out_features == 7
    assert not model.training
    with pytest.raises(InputError, match="takes no arguments"):
        load_model("whole.pt", trust=True, args=["classes=7"])
    torch.save(nn.Linear(1, 1).state_dict(), folder / "state.pt")
    with pytest.raises(InputTypeError, match="a state_dict goes to --weights"):
        load_model("state.pt")
