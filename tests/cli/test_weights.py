"""Weights are loaded whole, from wherever training programs put them, and run no code."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medcam.cli.weights import load_weights
from medcam.errors import InputError, MedcamWarning
from support.nets import Classifier


@pytest.fixture
def trained():
    return Classifier(classes=4)


def fresh() -> Classifier:
    torch.manual_seed(1)
    return Classifier(classes=4)


def assert_same(model, trained):
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"network_weights": state},
        lambda state: {"model_state_dict": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"loss": torch.tensor(1.0), "state_dict": state},
    ],
)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net."]
)
def test_wherever_the_weights_are(tmp_path, trained, wrap, prefix):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    model = fresh()
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, trained)


def test_a_prefix_that_belongs_to_the_model_stays(tmp_path):
    trained = nn.ModuleDict({"model": Classifier(), "net": nn.Linear(1, 2)})
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = nn.ModuleDict({"model": Classifier(), "net": nn.Linear(1, 2)})
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, trained)


def test_into_a_wrapped_model(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = nn.DataParallel(fresh())
    load_weights(model, tmp_path / "w.pt")
    assert_same(model.module, trained)


def test_into_a_lazy_model(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 2)).state_dict(), tmp_path / "w.pt")
    model = nn.Sequential(nn.LazyLinear(2))
    load_weights(model, tmp_path / "w.pt")
    assert model[0].weight.shape == (2, 3)


def test_safetensors(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model = fresh()
    load_weights(model, tmp_path / "w.safetensors")
    assert_same(model, trained)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_weights(model, tmp_path / "w.safetensors")


def test_missing_unexpected_and_misshapen_entries_are_named_and_counted(tmp_path, trained):
    state = trained.state_dict()
    del state["head.bias"]
    state["head.weight"] = torch.zeros(9, 8)
    state |= {f"extra{index}": torch.ones(1) for index in range(6)}
    torch.save(state, tmp_path / "w.pt")
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(model, tmp_path / "w.pt")
    text = str(error.value)
    assert "1 missing in the file: head.bias;" in text
    assert "6 not in the model: extra0, extra1, extra2, extra3, ...;" in text
    assert "1 of another shape: head.weight ([9, 8], the model's [4, 8])" in text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_prefix_is_taken_off_before_the_rest_is_reported(tmp_path, trained):
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    del state["module.head.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"model: 1 missing in the file: head\.bias\. Is it"):
        load_weights(fresh(), tmp_path / "w.pt")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_code_in_a_file_is_not_run_without_trust(tmp_path, trained):
    torch.save({"state_dict": trained.state_dict(), "hook": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"more than weights \(\S+\).*--trust"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_more_than_weights_is_read_with_trust(tmp_path, trained):
    best = np.float64(0.5)
    torch.save({"network_weights": trained.state_dict(), "best": best}, tmp_path / "w.pt")
    model = fresh()
    with pytest.raises(InputError, match=r"more than weights \(numpy\..*scalar\).*--trust"):
        load_weights(model, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt", trust=True)
    assert_same(model, trained)


def test_a_whole_model_as_weights(tmp_path, trained):
    torch.save({"model": nn.DataParallel(trained)}, tmp_path / "w.pt")
    model = fresh()
    load_weights(model, tmp_path / "w.pt", trust=True)
    assert_same(model, trained)


@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", b"PK\x03\x04 broken", pickle.dumps([1], 2)]
)
@pytest.mark.parametrize("trust", [False, True])
def test_files_that_are_no_weights(tmp_path, content, trust):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pt' (cannot be read|holds)"):
        load_weights(fresh(), tmp_path / "w.pt", trust=trust)


def test_a_file_that_is_cut_off(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"w\.pt' cannot be read"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_a_file_without_any_state_dict(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state_dict"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_a_folder_and_impossible_paths(tmp_path):
    with pytest.raises(InputError, match="are a folder"):
        load_weights(fresh(), tmp_path)
    for name in ("a" * 5000 + ".pt", "a\0b.pt"):
        with pytest.raises(InputError, match="do not exist"):
            load_weights(fresh(), tmp_path / name)


def test_entries_of_a_loss_are_left_out_and_named(tmp_path, trained):
    state = {**trained.state_dict(), "criterion.weight": torch.ones(4)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    model = fresh()
    with pytest.warns(MedcamWarning, match=r"criterion\.weight belong to a loss"):
        load_weights(model, tmp_path / "w.pt")
    assert_same(model, trained)


def test_of_two_sets_of_weights_the_one_taken_is_named(tmp_path, trained):
    averaged = {name: value / 2 for name, value in trained.state_dict().items()}
    content = {"state_dict_ema": averaged, "state_dict": trained.state_dict()}
    torch.save(content, tmp_path / "w.pt")
    model = fresh()
    with pytest.warns(MedcamWarning, match="'state_dict' was taken, not 'state_dict_ema'"):
        load_weights(model, tmp_path / "w.pt")
    assert_same(model, trained)
    torch.save({"ema": averaged}, tmp_path / "ema.pt")
    load_weights(model, tmp_path / "ema.pt")
    assert torch.equal(model.state_dict()["head.bias"], averaged["head.bias"])


def test_two_equal_sets_of_weights_need_no_word(tmp_path, trained):
    state = trained.state_dict()
    torch.save({"model": state, "net": state}, tmp_path / "w.pt")
    load_weights(fresh(), tmp_path / "w.pt")  # warnings are errors here


def test_complex_weights_are_not_those_of_a_real_model(tmp_path, trained):
    state = {name: value + 0j for name, value in trained.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match="of another kind"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path):
    torch.save({"weight": torch.zeros(2**22)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in plain.infolist():
            bomb.writestr(item.filename, plain.read(item))
    with pytest.raises(InputError, match="is compressed"):
        load_weights(fresh(), tmp_path / "bomb.pt")
